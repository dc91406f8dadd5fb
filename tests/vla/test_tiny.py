"""The model that is trained from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.tiny import VOCABULARY, make_tokenizer, write_tiny

TEXTS = ["open the drawer", "push the door to the left", "push the door to the right"]


def project(**head: Any) -> dict[str, Any]:
    return {
        "robovlm_name": "RoboVLM", "model": "smolvlm", "window_size": 2, "fwd_pred_next_n": 3,
        "use_hand_rgb": True, "vlm": {}, "train_setup": {},
        "act_head": {"type": "LSTMDecoder", "hidden_size": 64, "down_sample": "none", **head},
    }  # fmt: skip


def test_a_few_million_weights_give_a_chunk_per_frame(tmp_path: Path) -> None:
    model = RoboVLM.build(project(), write_tiny(tmp_path / "vlm", TEXTS), Compat())
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 6e6
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    frames = model.preprocess.images([image, image]).unsqueeze(0)
    assert frames.shape == (1, 2, 3, 96, 96)
    arm, gripper = model.act_head(model.features(frames, frames, *model.preprocess.text(TEXTS[:1])))
    assert arm.shape == (1, 2, 3, 6)
    assert gripper.shape == (1, 2, 3, 1)


def test_a_discrete_model_has_ids_that_are_no_words(tmp_path: Path) -> None:
    head = {"type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256}
    folder = write_tiny(tmp_path / "vlm", TEXTS, image_size=48, vision_layers=1, text_layers=1)
    model = RoboVLM.build(project(**head, min_action=-1, max_action=1), folder, Compat())
    assert model.action_tokenizer is not None
    words = {i for text in TEXTS for i in model.preprocess.tokenizer(text).input_ids}
    assert not words & set(model.action_tokenizer.ids)
    assert max(model.action_tokenizer.ids) < VOCABULARY


def test_the_same_sentences_give_the_same_files(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "one", TEXTS)
    again = write_tiny(tmp_path / "two", [*reversed(TEXTS), *TEXTS])
    for path in first.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_known_sentences_are_short_and_any_other_is_spelled() -> None:
    tokenizer = make_tokenizer(TEXTS)
    assert len(tokenizer("open the drawer").input_ids) == 5  # with start and end
    odd = "ünïcode ✓ 42"
    assert tokenizer.decode(tokenizer(odd).input_ids, skip_special_tokens=True).strip() == odd
    assert len(tokenizer) <= VOCABULARY


def test_sizes_are_options(tmp_path: Path) -> None:
    small = write_tiny(tmp_path / "vlm", TEXTS, text_layers=1)
    model = RoboVLM.build(project(), small, Compat())
    assert len(model.parts.text.layers) == 1
    assert model.action_token.dtype == torch.float32
    with pytest.raises(UsageError, match="text_layers"):
        write_tiny(tmp_path / "other", TEXTS, layers=1)
    with pytest.raises(UsageError, match="found none"):
        write_tiny(tmp_path / "other", [" "])
