"""Decisions that arrive late, in a world of one number that goes on meanwhile."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from line_world import CHAIN, INSTRUCTIONS, Line, ReachOracle, chunk

from calvin_eval.protocol import Protocol, RealTime
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.rollouts.realtime import RealTimeQueue, first_hold, hold
from calvin_eval.wrappers.policy import Requirements

HOLD = -1.0
"""What `meant_for` calls a step without an action of the policy."""


class Planner:
    """Every action says for which step it is meant, from 1, and which way the gripper goes."""

    def __init__(self, length: int, pace: float = 0.001, *, every_step: bool = False) -> None:
        self.requirements = Requirements(every_step=every_step)
        self.length, self.pace = length, pace
        self.asked: list[tuple[int, int]] = []
        self.seen: list[tuple[list[float], float]] = []
        self.resets = 0

    def reset(self, session: int, instruction: str) -> None:
        self.resets += 1

    def act(self, requests: Any) -> Any:
        (request,) = requests
        self.asked.append((request.position, request.step))
        self.seen.append(([frame["x"] for frame in request.frames], request.obs["x"]))
        actions = np.zeros((self.length, 7))
        actions[:, 0] = self.pace
        actions[:, 1] = request.step + 1 + np.arange(self.length)
        actions[:, 2] = request.position
        actions[:, 6] = -1
        return [actions]


def play(
    policy: Any, realtime: RealTime | None, world: Line | None = None, **rules: Any
) -> ChainOutcome:
    runner = ChainRunner(
        world or Line(),
        ReachOracle(),  # type: ignore[arg-type]
        policy,
        instructions=INSTRUCTIONS,
        rules=Protocol(realtime=realtime or RealTime(), **rules),
    )
    return runner.run(CHAIN)


def meant_for(outcome: ChainOutcome, position: int = 0) -> list[float]:
    """Per executed action the step, from 0, that it was meant for."""
    return [float(action[1]) - 1 for action in outcome.actions[position]]


@pytest.mark.parametrize("ask", ["empty", "ahead"])
@pytest.mark.parametrize("stale", ["keep", "drop"])
@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"execute": 2},
        {"leftover": "keep"},
        {"world_reset": "subtask", "policy_reset": "chain"},
        {"steps": 7},
    ],
)
def test_without_latency_it_is_the_ordinary_loop(ask: Any, stale: Any, rules: Any) -> None:
    rules = {"steps": 20, **rules}
    worlds, policies = (Line(), Line()), [Planner(5, 0.12, every_step=True) for _ in range(2)]
    ordinary = play(policies[0], None, worlds[0], **rules)
    real = play(policies[1], RealTime(latency=0, ask=ask, stale=stale), worlds[1], **rules)
    assert ordinary.record.outcome() == real.record.outcome()
    np.testing.assert_equal(real.actions, ordinary.actions)
    assert worlds[1].calls == worlds[0].calls
    assert (policies[1].asked, policies[1].seen) == (policies[0].asked, policies[0].seen)
    assert ordinary.waits == ()
    assert all(subtask.waited == 0 for subtask in real.waits)


@pytest.mark.parametrize(
    ("length", "realtime", "execute", "steps", "asked"),
    [
        # The arm stands still until the decision arrives, and begins at its beginning.
        (3, {}, None, [-1, -1, 0, 1, 2, -1, -1, 5, 6, 7], [0, 5]),
        (3, {}, 1, [-1, -1, 0, -1, -1, 3, -1, -1, 6], [0, 3, 6]),
        # What was meant for the steps spent waiting is left out.
        (5, {"stale": "drop"}, None, [-1, -1, 2, 3, 4, -1, -1, 7, 8, 9], [0, 5]),
        (5, {"stale": "drop"}, 1, [-1, -1, 2, -1, -1, 5], [0, 3]),
        # Of a chunk that is stale to its end, the last action is executed.
        (1, {"stale": "drop"}, None, [-1, -1, 0, -1, -1, 3], [0, 3]),
        # Asked ahead, the answer is there as the last action ends; only the first is waited for.
        (5, {"stale": "drop", "ask": "ahead"}, None, [-1, -1, 2, 3, 4, 5, 6, 7, 8], [0, 3, 6]),
        (5, {"stale": "drop", "ask": "ahead"}, 2, [-1, -1, 2, 3, 4, 5, 6], [0, 2, 4, 6]),
        # Chunks shorter than the latency leave gaps even so.
        (5, {"stale": "drop", "ask": "ahead"}, 1, [-1, -1, 2, -1, 4, -1, 6], [0, 2, 4, 6]),
        (3, {"ask": "ahead"}, None, [-1, -1, 0, 1, 2, 3, 4, 5, 6], [0, 3, 6]),
    ],
)  # fmt: skip
def test_two_steps_of_latency(
    length: int, realtime: dict[str, Any], execute: Any, steps: list[int], asked: list[int]
) -> None:
    policy = Planner(length)
    rules = {"steps": len(steps), "execute": execute}
    outcome = play(policy, RealTime(latency=2, **realtime), **rules)
    assert meant_for(outcome) == steps
    assert [step for _, step in policy.asked] == asked
    (waits,) = outcome.waits
    assert (waits.latencies, waits.waited) == ([2] * len(asked), steps.count(-1))


def test_the_last_action_may_be_repeated_while_waiting() -> None:
    outcome = play(Planner(2), RealTime(latency=2, while_waiting="repeat"), steps=8)
    assert meant_for(outcome) == [HOLD, HOLD, 0, 1, 1, 1, 4, 5]


def test_holding_moves_nothing_and_keeps_the_gripper() -> None:
    actions = play(Planner(1), RealTime(latency=1), steps=4).actions[0]
    assert [float(a[6]) for a in actions] == [1, -1, -1, -1]  # type: ignore[misc]  # open in a fresh world
    assert not np.any([actions[0][:6], actions[2][:6]])


def test_waiting_counts_against_the_budget() -> None:
    policy = Planner(5)
    outcome = play(policy, RealTime(latency=10), steps=6)
    assert [(s.success, s.steps) for s in outcome.record.subtasks] == [(False, 6)]
    assert meant_for(outcome) == [HOLD] * 6
    assert policy.asked == [(0, 0)]
    assert outcome.waits[0].waited == 6


def test_the_oracle_judges_while_the_policy_thinks() -> None:
    class Drifting(Line):
        def advance(self, action: Any) -> None:
            super().advance(action)
            self.x += 0.5

    outcome = play(Planner(5), RealTime(latency=10), Drifting())
    assert [(s.success, s.steps) for s in outcome.record.subtasks] == [(True, 2)] * 3


def test_a_decision_about_a_finished_subtask_is_discarded() -> None:
    # Asked again at step 3; the subtask is done after step 3, before the answer is there.
    policy = Planner(5, 0.5)
    outcome = play(policy, RealTime(latency=2, ask="ahead", stale="drop"), steps=9)
    assert policy.asked == [(0, 0), (0, 3), (1, 0), (1, 3), (2, 0), (2, 3)]
    assert policy.resets == 3
    for position in range(3):
        assert meant_for(outcome, position) == [HOLD, HOLD, 2, 3]
        assert [float(a[2]) for a in outcome.actions[position][2:]] == [position] * 2
    assert [(w.latencies, w.waited) for w in outcome.waits] == [([2, 2], 2)] * 3


def test_what_a_finished_subtask_leaves_may_bridge_the_next_one() -> None:
    policy = Planner(4, 0.5)
    outcome = play(policy, RealTime(latency=2, ask="ahead"), leftover="keep")
    # reach_1 takes two of four actions; the others are executed while the next is thought about.
    assert meant_for(outcome, 0) == [HOLD, HOLD, 0, 1]
    assert meant_for(outcome, 1)[:2] == [2, 3]
    assert outcome.waits[1].waited == 0


def test_a_fresh_world_has_an_open_gripper() -> None:
    outcome = play(Planner(2, 1), RealTime(latency=1), world_reset="subtask")
    first = [float(actions[0][6]) for actions in outcome.actions]  # type: ignore[misc]
    assert first == [1, 1, 1]
    outcome = play(Planner(2, 1), RealTime(latency=1))
    assert [float(actions[0][6]) for actions in outcome.actions] == [1, -1, -1]  # type: ignore[misc]


def test_history_policies_see_every_frame_between_decisions() -> None:
    policy = Planner(2, 0.01, every_step=True)
    play(policy, RealTime(latency=3), steps=12)
    frames = [np.round(seen, 3).tolist() for seen, _ in policy.seen]
    # Steps 1 to 4, three of them waited, before the decision at step 5; then 6 to 9.
    assert frames == [[], [0, 0, 0, 0.01], [0.02, 0.02, 0.02, 0.03]]
    assert [round(now, 3) for _, now in policy.seen] == [0, 0.02, 0.04]


def test_latency_is_measured_in_steps_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Planner):
        def act(self, requests: Any) -> Any:
            nonlocal now  # type: ignore[misc]
            now += 0.07 if requests[0].step == 0 else 0.1
            return super().act(requests)

    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    outcome = play(Slow(2), RealTime(latency="measured", hz=30), steps=10)
    monkeypatch.undo()
    assert outcome.waits[0].latencies == [3, 3]  # 2.1 and 3.0 steps
    assert meant_for(outcome) == [HOLD] * 3 + [0, 1] + [HOLD] * 3 + [5, 6]


def test_asking_ahead_of_a_measured_latency_expects_the_last_one() -> None:
    queue = RealTimeQueue(None, RealTime(latency="measured", hz=10, ask="ahead", stale="drop"))
    queue.begin_subtask(keep=False, fresh_world=False)
    assert queue.due
    queue.answer(chunk(0, 1, 2, 3, 4), seconds=0.2)
    assert not queue.due
    assert [queue.next()[0] for _ in range(3)] == [0, 0, 2]
    assert queue.due  # two actions are left, and the last answer took two steps
    queue.answer(chunk(3, 4, 5, 6), seconds=0.05)  # earlier than expected: it replaces the rest
    assert [queue.next()[0] for _ in range(3)] == [3, 4, 5]
    queue.answer(chunk(6, 7), seconds=0.45)  # later than expected
    assert [queue.next()[0] for _ in range(6)] == [6, 0, 0, 0, 0, 7]


def test_a_decision_of_no_time_is_there_at_once() -> None:
    queue = RealTimeQueue(None, RealTime(latency="measured"))
    queue.begin_subtask(keep=False, fresh_world=False)
    queue.answer(chunk(5), seconds=0.0)
    assert queue.next()[0] == 5
    assert queue.waits[0].waited == 0


def test_the_policys_memory_is_not_ours() -> None:
    class Reuses(Planner):
        memory = np.zeros((2, 7))

        def act(self, requests: Any) -> Any:
            self.memory[:] = super().act(requests)[0]
            return [self.memory]

    outcome = play(Reuses(2), RealTime(latency=1, ask="ahead"), steps=7)
    assert meant_for(outcome) == [HOLD, 0, 1, 2, 3, 4, 5]


POSE = (np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 1.0]), -1)


@pytest.mark.parametrize(
    ("last", "held"),
    [
        (np.full(7, -1, np.float32), np.array([0, 0, 0, 0, 0, 0, -1], np.float32)),
        ([0.5] * 6 + [1], np.array([0, 0, 0, 0, 0, 0, 1.0])),
        ({"type": "cartesian_rel", "action": [0.5] * 6 + [-1]},
         {"type": "cartesian_rel", "action": np.array([0, 0, 0, 0, 0, 0, -1.0])}),
        ({"type": "joint_rel", "action": [0.5] * 7 + [-1]},
         {"type": "joint_rel", "action": np.array([0, 0, 0, 0, 0, 0, 0, -1.0])}),
        ({"type": "joint_abs", "action": [0.5] * 7 + [1]},
         {"type": "joint_abs", "action": [0.5] * 7 + [1]}),
        (POSE, POSE),
    ],
)  # fmt: skip
def test_holding_after_each_form_of_action(last: Any, held: Any) -> None:
    found = hold(last)
    np.testing.assert_equal(found, held)
    if isinstance(held, np.ndarray):
        assert found.dtype == held.dtype  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("coming", "dtype"),
    [
        (np.array([1, 2, 3, 4, 5, 6, -1], np.float32), np.float32),
        ([1, 2, 3, 4, 5, 6, -1], np.float64),
        (POSE, np.float64),
        ({"type": "joint_abs", "action": np.array([0.5] * 7 + [1], np.float32)}, np.float32),
    ],
)
def test_before_the_first_action_the_arm_holds_in_the_policys_own_type(
    coming: Any, dtype: Any
) -> None:
    still = first_hold(coming)
    assert still.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert still.dtype == dtype


def test_an_action_of_no_known_form_is_an_error_of_the_chain() -> None:
    class Odd(Planner):
        def act(self, requests: Any) -> Any:
            return [np.zeros((2, 5))]

    record = play(Odd(2), RealTime(latency=1)).record
    assert record.status == "error"
    assert "InvalidActionError: expected a relative 7-vector" in str(record.error)
