"""Runs whose chains end by errors: they are said, and one that nothing can come of stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import calvin_eval
from calvin_eval.results.schema import PRINTED, ChainRecord, SubtaskRecord
from calvin_eval.running.errors_seen import ErrorsSeen

TRACE = "Traceback (most recent call last):\n  File 'm.py', line 3\nTypeError: step 3 of chain {}"


def record(chain: int, error: str | None, done: int = 0) -> ChainRecord:
    tasks = ("open_drawer", "close_drawer")
    success = [True] * done + ([] if error else [False])
    subtasks = tuple(
        SubtaskRecord(
            task=task, instruction="do it", success=fine, steps=3, seconds=0.0, state_hash="0"
        )
        for task, fine in zip(tasks, success, strict=False)
    )
    return ChainRecord(
        chain=chain,
        initial_state={"led": 0},
        tasks=tasks,
        subtasks=subtasks,
        status="error" if error else "completed",
        error=error,
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TRACE.format(7), "TypeError: step 3 of chain 7"),
        (f"{TRACE.format(7)}\n\n{PRINTED}\nloading\n", "TypeError: step 3 of chain 7"),
        (
            "given up after 3 attempts: it died\nlast output:\nx",
            "given up after 3 attempts: it died",
        ),
        (None, ""),
    ],
)
def test_the_cause_is_one_line(error: str | None, cause: str) -> None:
    assert record(0, error).cause == cause


def seen(limit: int | None, records: list[ChainRecord]) -> tuple[list[str | None], str | None]:
    errors = ErrorsSeen(limit)
    return [errors.add(entry) for entry in records], errors.same


def test_the_same_error_is_said_once_and_is_enough() -> None:
    said, same = seen(3, [record(chain, TRACE.format(chain)) for chain in (0, 5, 2, 4)])
    assert said == ["chain 0 ended by an error: TypeError: step 3 of chain 0", None, None, None]
    assert same == "TypeError: step 3 of chain 2"


@pytest.mark.parametrize(
    "records",
    [
        [record(0, "a"), record(1, "b"), record(2, "a")],
        [record(0, "a"), record(1, None), record(2, "a"), record(3, "a")],
        [record(0, "a"), record(1, "a", done=1), record(2, "a")],
        [record(0, "a"), record(1, "a")],
    ],
    ids=["others", "one that did not", "a success", "too few"],
)
def test_anything_else_is_not_enough(records: list[ChainRecord]) -> None:
    assert seen(3, records)[1] is None


def test_without_a_limit_nothing_is_enough() -> None:
    said, same = seen(None, [record(chain, f"error {'abcdef'[chain]}") for chain in range(6)])
    assert same is None
    assert [line is not None for line in said] == [True] * 3 + [False] * 3


class Raw:
    """A gripper as a network gives it."""

    requirements: ClassVar[Any] = {}

    def reset(self) -> None:
        pass

    def step(self, obs: Any, goal: str) -> Any:
        return np.array([0, 0, 0, 0, 0, 0, -0.87])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_cannot_succeed_stops_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    run = calvin_eval.evaluate(Raw(), num_chains=20, workers=workers, out=tmp_path / "run")
    assert list(run.errors) == [0, 1, 2]
    assert not run.interrupted
    assert run.exit_code == 3
    lines = capsys.readouterr().err.splitlines()
    (said,) = [line for line in lines if line.startswith("chain 0 ended by an error: ")]
    assert "found -0.87" in said
    assert "policy.actions.gripper.input=signed" in said
    assert any(line.startswith("stopping: the first 3 chains") for line in lines)
    fixed = calvin_eval.evaluate(
        Raw(), num_chains=1, workers=workers, out=tmp_path / "fixed", quiet=True,
        overrides=["policy.actions.gripper.input=signed", "protocol.steps=3"],
    )  # fmt: skip
    assert fixed.summary.complete


@pytest.mark.slow
@pytest.mark.processes
def test_a_class_makes_one_policy_for_each_worker(tmp_path: Path) -> None:
    made: list[object] = []

    class Fixed(Raw):
        def __init__(self) -> None:
            made.append(self)

        def step(self, obs: Any, goal: Any, step: int) -> Any:  # type: ignore[override]
            return {"action": [0, 0, 0, 0, 0, 0, 1 - 2 * (step % 2)]}

    run = calvin_eval.evaluate(
        Fixed, num_chains=4, workers=2, out=tmp_path / "run", quiet=True,
        overrides=["protocol.steps=4"],
    )  # fmt: skip
    assert run.summary.complete
    assert len(made) == 2
    assert "Fixed of this process: reset() and step(obs, goal, step)" in run.policy
