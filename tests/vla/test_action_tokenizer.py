from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_vlm

from calvin_eval.errors import UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer, special_tokens, vocabulary_base
from calvin_eval.vla.compat import Compat

HEAD: dict[str, Any] = {"n_bin": 256, "min_action": -1, "max_action": 1}


def test_larger_actions_have_smaller_ids() -> None:
    made = ActionTokenizer(base=1000)
    assert made.encode([-1.0, 0.0, 1.0]).tolist() == [1000 - 1, 1000 - 128, 1000 - 256]
    assert made.encode([[-7.0, 7.0]]).tolist() == [[999, 744]]
    assert (made.ids.start, made.ids.stop) == (744, 1000)


def test_ids_decode_to_the_middle_of_their_bin() -> None:
    made = ActionTokenizer(base=1000)
    values = np.linspace(-1, 1, 4001)
    assert np.abs(made.decode(made.encode(values)) - values).max() <= 0.00393
    assert made.decode(made.encode(0.0)) == 0.0
    middles = [-1 + (2 * k + 1) / 255 for k in range(255)]
    assert made.decode(range(999, 744, -1)) == pytest.approx(middles, abs=1e-12)
    assert made.decode(744) == made.decode(745) == pytest.approx(0.99608, abs=1e-5)


def test_ids_that_are_no_actions_decode_to_the_extremes() -> None:
    made = ActionTokenizer(base=1000)
    assert made.decode([-5, 0, 743]) == pytest.approx([254 / 255] * 3)
    assert made.decode([1000, 60000]) == pytest.approx([-254 / 255] * 2)


def test_markers_enclose_all_ids_except_where_the_base_is_the_vocabulary() -> None:
    made = ActionTokenizer(base=1000)
    assert (made.begin, made.end) == (743, 1000)
    assert made.is_action([743, 744, 999, 1000]).tolist() == [False, True, True, False]
    seed = ActionTokenizer(base=1000, end_is_last_id=True)
    assert (seed.begin, seed.end) == (743, 999)
    assert seed.is_action(seed.encode([-1.0, 1.0])).tolist() == [False, True]


def test_where_ids_start_is_an_option() -> None:
    tokenizer = tiny_vlm.tokenizer("kosmos")  # names four special tokens
    size = tokenizer.vocab_size
    assert special_tokens(tokenizer) == 4
    assert vocabulary_base(tokenizer, "checkout") == size - 4 - 10
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    assert tokenizer.vocab_size == size
    assert vocabulary_base(tokenizer, "checkout") == size - 6 - 10
    made = ActionTokenizer.from_tokenizer(tokenizer, HEAD, Compat(action_vocab_base="seed"))
    assert (made.base, made.end) == (size, size - 1)
    assert ActionTokenizer.from_tokenizer(tokenizer, HEAD, Compat(action_vocab_base=700)).end == 700


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(UsageError, match="needs min_action, max_action"):
        ActionTokenizer.from_tokenizer(tiny_vlm.tokenizer("kosmos"), {"n_bin": 256}, Compat())
    for bad in ({"base": 100}, {"base": 1000, "bins": 1}, {"base": 1000, "low": 1.0}):
        with pytest.raises(UsageError, match="action tokens: expected"):
            ActionTokenizer(**bad)  # type: ignore[arg-type]
