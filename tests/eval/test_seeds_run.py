"""Several seeds of a policy in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calvin_eval.cli.main import main
from calvin_eval.config.compose import compose_configs
from calvin_eval.config.values import seeds_of
from calvin_eval.errors import UsageError
from calvin_eval.results.store import RunFolder


@pytest.mark.parametrize(
    ("text", "found"), [("0,1,2", (0, 1, 2)), ("3", (3,)), ("7, 0-2,1", (0, 1, 2, 7))]
)
def test_seeds_are_read(text: str, found: tuple[int, ...]) -> None:
    assert seeds_of(text) == found


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "3-1", "-1", "0-5000", "0-9999999999", "9" * 5000]
)
def test_what_is_no_list_of_seeds(text: str) -> None:
    with pytest.raises(UsageError, match="seeds"):
        seeds_of(text)


def test_every_checkpoint_has_a_run_for_every_seed() -> None:
    ckpts = ["builtin:still", "builtin:random"]
    configs = compose_configs([], {"out": "runs/x"}, ckpts, [0, 5])
    found = [(config.ckpt, config.seed, config.out) for config in configs]
    assert found == [
        ("builtin:still", 0, "runs/x/builtin-still/seed-0"),
        ("builtin:still", 5, "runs/x/builtin-still/seed-5"),
        ("builtin:random", 0, "runs/x/builtin-random/seed-0"),
        ("builtin:random", 5, "runs/x/builtin-random/seed-5"),
    ]
    (one,) = compose_configs([], {"out": "runs/x"}, ckpts[:1], [4])
    assert (one.seed, one.out) == (4, "runs/x/seed-4")


def test_one_seed_or_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "builtin:still", "--seed", "1", "--seeds", "0,1"]) == 2
    assert "expected --seed or --seeds, found both" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.processes
def test_runs_of_all_seeds_with_mean_and_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--ckpt", "builtin:random", "--num-chains", "2", "--workers", "0", "--quiet"]
    rules = ["--render", "none", "protocol.steps=3", "--out", str(tmp_path / "all")]
    assert main([*command, "--seeds", "0-2", *rules]) == 0
    said = capsys.readouterr().out
    assert "builtin:random: 3 seeds (0, 1, 2)" in said
    assert "all/seed-2" in said
    stated = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert stated["seeds"] == [0, 1, 2]
    assert stated["average_length"]["deviation"] == 0
    headers = [RunFolder.open(tmp_path / "all" / f"seed-{seed}").header() for seed in range(3)]
    assert [header.config.seed for header in headers] == [0, 1, 2]
