"""Flags, keys and names of splits as other evaluation scripts and papers write them."""

from __future__ import annotations

import re

import pytest

from calvin_eval.cli import main as cli
from calvin_eval.cli.main import run_command
from calvin_eval.config.compose import compose_config
from calvin_eval.config.schema import SHORTHANDS
from calvin_eval.config.upstream import ANSWERS, answer
from calvin_eval.config.values import split_of
from calvin_eval.errors import UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--dataset_path", "no data set is needed"),
        ("--num_sequences", "--num-chains N"),
        ("--ep_len", "protocol.steps=N"),
        ("--ep-len", "protocol.steps=N"),
        ("--device", "--devices cuda:0"),
        ("--checkpoint", "--ckpt PATH"),
        ("--custom_model", "--ckpt file.py:Class"),
        ("--eval_log_dir", "--out FOLDER"),
        ("--host", "--ckpt ws://HOST:PORT"),
        ("--replan_steps", "protocol.execute=N"),
    ],
)
def test_flags_are_answered_with_ours(
    capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    assert cli.main(["--ckpt", "builtin:still", flag, "1"]) == 2
    shown = capsys.readouterr().err
    assert f"No such option: {flag}. Here it is" in shown
    assert said in shown
    assert "--expect" not in shown


def test_other_commands_and_other_mistakes_are_left_to_click(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["gate", "--device", "1"]) == 2
    assert cli.main(["--ckpt", "builtin:still", "--worker", "1"]) == 2
    assert "Here it is" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["ep_len", "protocol.ep_len", "num_sequences", "policy.device"])
def test_keys_are_answered_with_ours(key: str) -> None:
    for override in (f"{key}=3", f"+{key}=3"):
        with pytest.raises(UsageError, match=f"unknown configuration key '{key}': here it is "):
            compose_config([override], {"ckpt": "builtin:still"})


def test_no_answer_hides_an_option_or_a_key_of_ours() -> None:
    flags = {option.lstrip("-").replace("-", "_") for p in run_command.params for option in p.opts}
    assert not flags & set(ANSWERS)
    keys = {key.rpartition(".")[2] for key in SHORTHANDS.values()}
    assert not keys & set(ANSWERS)


def test_answers_name_options_and_keys_that_there_are() -> None:
    known = {option for parameter in run_command.params for option in parameter.opts}
    for said in set(ANSWERS.values()):
        assert {flag for flag in re.findall(r"--[a-z-]+", said)} <= known
        for key, value in re.findall(r"(protocol\.\w+)=(\w+)", said):
            given = {"N": "3", "FILE": "mine.json"}.get(value, value)
            compose_config([f"{key}={given}"], {"ckpt": "builtin:still"})
    assert answer("--ckpt") is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("ABCD", "ABCD_D"), ("ABC", "ABC_D"), ("abc", "ABC_D"), ("ABCD->D", "ABCD_D"),
        ("ABC->D", "ABC_D"), ("ABC→D", "ABC_D"), ("ABC => D", "ABC_D"), ("abc2d", "ABC_D"),
        ("task_ABC_D", "ABC_D"), ("calvin_task_ABCD_D", "ABCD_D"), ("ABC-D", "ABC_D"),
        ("ABC/D", "ABC_D"), ("ABC to D", "ABC_D"), ("D", "D"), ("D->D", "D"), ("task_D_D", "D"),
        ("D_D", "D"), ("A", "A"), ("B->B", "B"), ("c", "C"),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["ABC->A", "AB", "D->A", "BCD_A", "debug", "validation", "", "DD"])
def test_splits_that_there_are_not(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown split"):
        split_of(name)
