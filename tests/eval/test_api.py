from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import calvin_eval
from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Requirements

pytestmark = [pytest.mark.slow, pytest.mark.processes]


class Batching:
    """Our own protocol, serving any number of chains from one object."""

    requirements = Requirements()

    def __init__(self) -> None:
        self.sessions: set[int] = set()

    def reset(self, session: int, instruction: str) -> None:
        self.sessions.add(session)

    def act(self, requests: Any) -> Any:
        return [np.array([[np.sin(r.step), 0, 0, 0, 0, 0, 1.0]] * 2) for r in requests]


class Upstreams:
    """Upstream's protocol."""

    requirements: ClassVar[Any] = {"rgb": ["gripper"]}

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def reset(self) -> None:
        pass

    def step(self, obs: Any, goal: str) -> Any:
        self.seen.append(obs["rgb_obs"]["rgb_gripper"].shape)
        return np.array([0, 0, 0.5, 0, 0, 0, 1])


def test_a_policy_object_is_evaluated_where_it_is(tmp_path: Path) -> None:
    policy = Batching()
    run = calvin_eval.evaluate(
        policy, num_chains=5, workers=2, out=tmp_path / "run", overrides=["protocol.steps=6"],
        quiet=True,
    )  # fmt: skip
    assert run.summary.complete
    assert policy.sessions == set(range(5))
    assert run.folder == (tmp_path / "run").resolve()
    assert [record.chain for record in run.records] == list(range(5))
    assert "Batching" in run.policy


def test_a_model_of_upstreams_kind_sees_its_images(tmp_path: Path) -> None:
    model = Upstreams()
    run = calvin_eval.evaluate(
        model, num_chains=2, render="tiny", out=tmp_path / "run", quiet=True,
        overrides=["protocol.steps=3", "engine.ask_twice=false"],
    )  # fmt: skip
    assert run.summary.complete
    assert model.seen == [(84, 84, 3)] * 6


def test_a_checkpoint_by_name(tmp_path: Path) -> None:
    run = calvin_eval.evaluate(
        "builtin:still",
        chains="7",
        out=tmp_path / "run",
        overrides=["protocol.steps=3"],
        quiet=True,
    )
    assert [record.chain for record in run.records] == [7]


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(PolicyError, match="found dict"):
        calvin_eval.evaluate({})
    with pytest.raises(TypeError, match="'chians'"):
        calvin_eval.evaluate("builtin:still", chians="3")  # type: ignore[call-arg]


def test_every_flag_of_a_run_is_an_argument() -> None:
    from calvin_eval.config.schema import SHORTHANDS

    arguments = set(inspect.signature(calvin_eval.evaluate).parameters)
    assert set(SHORTHANDS) <= arguments
    assert arguments - set(SHORTHANDS) == {"policy", "preset", "overrides", "quiet"}


def test_a_gate_is_decided_without_a_word_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    run = calvin_eval.evaluate(
        "builtin:still", num_chains=40, workers=0, gate="min-avg-len=3", out=tmp_path / "run",
        overrides=["protocol.steps=1"], quiet=True,
    )  # fmt: skip
    assert run.decision is not None
    assert run.decision.outcome == "fail"
    assert run.exit_code == 1
    assert (tmp_path / "run" / "junit.xml").is_file()
    assert not (tmp_path / "summary.md").exists()
    assert capfd.readouterr() == ("", "")


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "print('training')\n"
        "import calvin_eval\n"
        "for epoch in range(2):\n"
        "    run = calvin_eval.evaluate('builtin:random', num_chains=3, workers=2, quiet=True,\n"
        "                               out=f'epoch{epoch}', overrides=['protocol.steps=4'])\n"
        "    print(run.summary.completed)\n"
    )
    child = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["training", "3", "3"]
