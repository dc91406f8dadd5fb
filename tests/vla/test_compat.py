from __future__ import annotations

from dataclasses import fields

import pytest

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.compat import CHOICES, Compat


def test_every_option_is_a_switch_or_has_its_values_listed() -> None:
    for field in fields(Compat):
        assert (field.name in CHOICES) != isinstance(field.default, bool)
        assert field.name in CHOICES or field.default is False


def test_options_are_read_as_yaml_gives_them() -> None:
    read = Compat.from_options(
        {
            "euler_wrap": True,
            "constrained_decode": "on",
            "discrete_steps": 1,
            "ensemble": "temporal",
        }
    )
    assert read == Compat(euler_wrap=True, constrained_decode=True, ensemble="temporal")
    assert Compat.from_options({"action_vocab_base": "32000"}).action_vocab_base == 32000
    assert Compat.from_options({}) == Compat()
    assert Compat.from_options({"pre_select": "oldest"}, Compat.fixed()).act_insert == "per_row"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "frist"}, "Did you mean 'first'"),
        ({"ensembl": "first"}, "Did you mean 'ensemble'"),
        ({"euler_wrap": "maybe"}, "expected one of on, off"),
        ({"euler_wrap": 2}, "expected one of on, off"),
        ({"action_vocab_base": "seeds"}, "Did you mean 'seed'"),
    ],
)
def test_unknown_names_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Compat.from_options(options)


def test_the_vocabulary_base_is_a_token_id() -> None:
    for bad in (0, -1, True):
        with pytest.raises(UsageError, match="positive token id"):
            Compat(action_vocab_base=bad)


def test_fixed_keeps_what_training_fixed() -> None:
    compat, fixed = Compat(), Compat.fixed()
    same = {f.name for f in fields(Compat) if getattr(compat, f.name) == getattr(fixed, f.name)}
    assert same == {
        "action_vocab_base", "discrete_steps", "prompt_steps", "action_history",
        "state_token", "gripper_convention", "load_strict",
    }  # fmt: skip
