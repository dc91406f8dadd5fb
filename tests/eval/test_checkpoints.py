"""Several checkpoints in one command: each once, by names that tell them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from calvin_eval.config.checkpoints import expand, run_names
from calvin_eval.config.compose import compose_configs


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What LeRobot writes: two trainings, three steps and a link to the last of each."""
    monkeypatch.chdir(tmp_path)
    for name, steps in (("act_a", ("020000", "040000")), ("act_b", ("020000",))):
        for step in steps:
            Path(f"outputs/train/{name}/checkpoints/{step}/pretrained_model").mkdir(parents=True)
        Path(f"outputs/train/{name}/checkpoints/last").symlink_to(steps[-1])
    return tmp_path


@pytest.mark.parametrize("inside", ["", "/pretrained_model"])
def test_names_are_where_the_paths_differ(trained: Path, inside: str) -> None:
    found = expand([f"outputs/train/*/checkpoints/*{inside}"])
    assert [str(Path(ckpt)) for ckpt in found] == [
        f"outputs/train/{name}{inside}"
        for name in ("act_a/checkpoints/020000", "act_a/checkpoints/040000",
                     "act_b/checkpoints/020000")
    ]  # fmt: skip
    assert run_names(found) == ["act_a-020000", "act_a-040000", "act_b-020000"]


def test_links_and_repetitions_are_run_once(trained: Path) -> None:
    last, step = (f"outputs/train/act_a/checkpoints/{name}" for name in ("last", "040000"))
    assert expand([last]) == [last]
    assert expand([last, step, f"{trained}/{step}", "builtin:still", "builtin:still"]) == [
        step, "builtin:still",
    ]  # fmt: skip


def test_other_names(trained: Path) -> None:
    Path("a.pt").touch()
    Path("b.pt").touch()
    assert run_names(["a.pt", "b.pt"]) == ["a.pt", "b.pt"]
    assert run_names(["a.pt", "builtin:still"]) == ["a.pt", "builtin-still"]
    assert run_names(["one:Policy", "two/p.py:Policy", "three/p.py:Policy"]) == [
        "one-Policy", "02-p.py-Policy", "03-p.py-Policy",
    ]  # fmt: skip


def test_folders_of_the_runs(trained: Path) -> None:
    configs = compose_configs([], {"out": "runs/all"}, ["outputs/train/*/checkpoints/*"])
    assert [config.out for config in configs] == [
        "runs/all/act_a-020000", "runs/all/act_a-040000", "runs/all/act_b-020000",
    ]  # fmt: skip
