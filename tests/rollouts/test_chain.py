"""The loop against protocol section 10, in a world of two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import AssetError
from calvin_eval.rollouts.chain import ChainRunner, Rules
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.wrappers.policy import Requirements

CHAIN = Chain(
    id=7,
    initial_state={"led": 0},
    tasks=("reach_1", "reach_2", "reach_3"),
    robot_obs=np.zeros(15),
    scene_obs=np.zeros(24),
)
INSTRUCTIONS = InstructionSet(
    name="test", by_task={f"reach_{i}": f"go to {i}" for i in range(1, 10)}, by_chain={}
)


class Line:
    """A world with one coordinate: action[0] is added to it."""

    def __init__(self) -> None:
        self.x = 0.0
        self.calls: list[str] = []

    def start(self, robot_obs: Any = None, scene_obs: Any = None) -> None:
        self.x = 0.0
        self.calls.append("start")

    def advance(self, action: Any) -> None:
        self.x += float(action[0])
        self.calls.append("step")

    def observe(self, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()) -> dict[str, Any]:
        self.calls.append(f"observe {','.join(rgb)}")
        return {"x": self.x}

    def get_state_obs(self) -> dict[str, Any]:
        return {"robot_obs": np.full(15, self.x), "scene_obs": np.zeros(24)}

    def get_info(self, needs: Any = None) -> dict[str, Any]:
        return {"x": self.x}

    def close(self) -> None:
        pass


class ReachOracle:
    """`reach_n` is achieved where x >= n."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def needs(self, tasks: Any) -> None:
        return None

    def achieved(self, start: Any, info: Any, tasks: Any) -> set[str]:
        self.asked.append(tuple(tasks))
        return {task for task in tasks if info["x"] >= float(task[-1]) - 1e-9}


class Scripted:
    """Answers every request with the same chunk and remembers what it was told."""

    def __init__(self, chunk: Any, **requirements: Any) -> None:
        self.requirements = Requirements(**requirements)
        self.chunk = chunk
        self.log: list[Any] = []

    def reset(self, session: int, instruction: str) -> None:
        self.log.append(("reset", session, instruction))

    def act(self, requests: Any) -> Any:
        (request,) = requests
        self.log.append((request.session, request.position, request.step, request.obs["x"]))
        return [self.chunk]


def chunk(*values: float) -> Any:
    return np.array([[value, 0, 0, 0, 0, 0, 1] for value in values])


def run(policy: Any, world: Any = None, oracle: Any = None, **rules: Any) -> Any:
    world, oracle = world or Line(), oracle or ReachOracle()
    runner = ChainRunner(world, oracle, policy, instructions=INSTRUCTIONS, rules=Rules(**rules))
    return runner.run(CHAIN).record


def test_success_moves_on_in_the_same_world_and_asks_for_its_own_task_only() -> None:
    world, oracle, policy = Line(), ReachOracle(), Scripted(chunk(0.5), rgb=("static",))
    record = run(policy, world, oracle)
    assert [(s.task, s.success, s.steps) for s in record.subtasks] == [
        ("reach_1", True, 2),
        ("reach_2", True, 2),
        ("reach_3", True, 2),
    ]
    assert (record.chain, record.length, record.status) == (7, 3, "completed")
    assert world.calls.count("start") == 1
    assert oracle.asked == [("reach_1",)] * 2 + [("reach_2",)] * 2 + [("reach_3",)] * 2
    assert [entry for entry in policy.log if entry[0] == "reset"] == [
        ("reset", 7, "go to 1"),
        ("reset", 7, "go to 2"),
        ("reset", 7, "go to 3"),
    ]
    # position, step within the subtask, and what was seen right before deciding
    assert policy.log[4:6] == [(7, 1, 0, 1.0), (7, 1, 1, 1.5)]
    assert world.calls[1:3] == ["observe static", "step"]


def test_a_failure_spends_the_budget_and_ends_the_chain() -> None:
    record = run(Scripted(chunk(0.01)), steps=9)
    assert [(s.task, s.success, s.steps) for s in record.subtasks] == [("reach_1", False, 9)]
    assert (record.length, record.status) == (0, "completed")


def test_success_on_the_last_step_of_the_budget_counts() -> None:
    assert run(Scripted(chunk(0.25)), steps=4).subtasks[0].success
    assert not run(Scripted(chunk(0.25)), steps=3).subtasks[0].success


def test_the_budget_cuts_a_chunk_short() -> None:
    world = Line()
    record = run(Scripted(chunk(*[0.01] * 10)), world, steps=13)
    assert record.subtasks[0].steps == 13
    assert world.calls.count("step") == 13


def test_a_budget_of_decisions_counts_calls_of_the_policy() -> None:
    record = run(Scripted(chunk(*[0.01] * 10)), steps=3, budget="decisions")
    assert record.subtasks[0].steps == 30


def test_only_the_first_actions_of_a_chunk_are_executed_if_so_ruled() -> None:
    policy = Scripted(chunk(0.1, 0.1, -5, -5))
    record = run(policy, execute=2, steps=20)
    assert record.length == 1 or record.subtasks[0].success
    assert [entry[2] for entry in policy.log if entry[0] == 7][:3] == [0, 2, 4]


def test_nothing_is_observed_while_a_chunk_is_executed() -> None:
    world = Line()
    run(Scripted(chunk(*[0.01] * 5)), world, steps=10)
    assert [call for call in world.calls if call.startswith("observe")] == ["observe "] * 2


@pytest.mark.parametrize(("leftover", "seen"), [("drop", 1.0), ("keep", 1.5)])
def test_what_a_finished_subtask_leaves_of_its_chunk(leftover: str, seen: float) -> None:
    policy = Scripted(chunk(1.0, 0.5))
    run(policy, leftover=leftover)
    first_look_in_second_subtask = next(e for e in policy.log if e[0] == 7 and e[1] == 1)
    assert first_look_in_second_subtask[3] == seen


def test_the_policy_may_remember_over_the_chain() -> None:
    policy = Scripted(chunk(1.0))
    run(policy, policy_reset="chain")
    assert [entry for entry in policy.log if entry[0] == "reset"] == [("reset", 7, "go to 1")]


def test_the_world_may_be_restored_for_every_subtask() -> None:
    world = Line()
    record = run(Scripted(chunk(1.0)), world, world_reset="subtask")
    assert world.calls.count("start") == 3
    assert [s.steps for s in record.subtasks] == [1, 2, 3]


def test_an_exception_of_the_policy_is_an_error_and_not_a_failure() -> None:
    class Breaks(Scripted):
        def act(self, requests: Any) -> Any:
            if requests[0].position == 1:
                raise RuntimeError("out of memory")
            return super().act(requests)

    record = run(Breaks(chunk(1.0)))
    assert record.status == "error"
    assert "RuntimeError: out of memory" in record.error
    assert [s.success for s in record.subtasks] == [True]


@pytest.mark.parametrize("answer", [[], [chunk()], [chunk(1), chunk(1)]])
def test_an_answer_without_actions_is_an_error(answer: Any) -> None:
    class Mute(Scripted):
        def act(self, requests: Any) -> Any:
            return answer

    record = run(Mute(None))
    assert record.status == "error"
    assert "expected one chunk" in record.error


def test_a_broken_simulator_ends_the_run_and_not_the_chain() -> None:
    class Broken(Line):
        def start(self, robot_obs: Any = None, scene_obs: Any = None) -> None:
            raise AssetError("table.urdf is gone")

    with pytest.raises(AssetError):
        run(Scripted(chunk(1.0)), Broken())
