"""The loop against docs/protocol.md#rollout, in a world of two numbers."""

from __future__ import annotations

from typing import Any

import pytest
from line_world import CHAIN, INSTRUCTIONS, Line, ReachOracle, Scripted, chunk

from calvin_eval.errors import AssetError
from calvin_eval.protocol import Protocol
from calvin_eval.rollouts.chain import ChainRunner


def run(policy: Any, world: Any = None, oracle: Any = None, **rules: Any) -> Any:
    world, oracle = world or Line(), oracle or ReachOracle()
    runner = ChainRunner(world, oracle, policy, instructions=INSTRUCTIONS, rules=Protocol(**rules))
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


@pytest.mark.parametrize(
    ("rules", "seen"),
    [
        ({}, [1.0]),  # forgotten with the subtask
        ({"policy_reset": "chain"}, [0.5, 1.0]),
        ({"policy_reset": "chain", "leftover": "keep"}, [0.5, 1.0, 1.25, 1.75]),
        ({"policy_reset": "chain", "world_reset": "subtask"}, [0.0]),
    ],
)
def test_frames_between_decisions_live_as_long_as_the_policys_memory(
    rules: dict[str, Any], seen: list[float]
) -> None:
    class Looking(Scripted):
        def act(self, requests: Any) -> Any:
            (request,) = requests
            frames = [*request.frames, request.obs]
            self.log.append((7, request.position, [frame["x"] for frame in frames]))
            return [self.chunk]

    policy = Looking(chunk(0.5, 0.5, 0.25, 0.5), every_step=True)
    run(policy, **rules)
    assert next(e for e in policy.log if e[0] == 7 and e[1] == 1)[2] == seen


def test_the_robot_alone_may_be_put_back_for_every_subtask() -> None:
    world = Line()
    record = run(Scripted(chunk(1.0)), world, world_reset="robot")
    assert [world.calls.count(call) for call in ("start", "place")] == [1, 2]
    assert [s.steps for s in record.subtasks] == [1, 2, 3]


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
        def start(self, robot_obs: Any = None, scene_obs: Any = None, variant: Any = None) -> None:
            raise AssetError("table.urdf is gone")

    with pytest.raises(AssetError):
        run(Scripted(chunk(1.0)), Broken())
