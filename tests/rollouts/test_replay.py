"""Replays: what a live run saw comes back, state by state, from its actions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import InvalidActionError, UsageError
from calvin_eval.protocol import OFFICIAL, Protocol, RealTime
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.rollouts.replay import ReplayError, replay, replay_record
from calvin_eval.sim import TaskOracle, load_chains, load_pack, make_env
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.instructions import PACK, load_instructions
from calvin_eval.wrappers.policy import Request, Requirements

ASSETS = load_pack("builtin")
ORACLE = TaskOracle(ASSETS)
STEPS = 25
TASKS = ("turn_on_led", "turn_off_led", "open_drawer")
STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])

RULES = {
    "official": Protocol(steps=STEPS),
    "world per subtask": Protocol(steps=STEPS, world_reset="subtask"),
    "leftover": Protocol(steps=STEPS, leftover="keep"),
    "real time": Protocol(steps=STEPS, realtime=RealTime(latency=2, ask="ahead")),
    "decisions": Protocol(steps=10, budget="decisions", execute=2),
}


class Press:
    """Works the button, which switches the LED, by chunks of three absolute poses."""

    requirements = Requirements()

    def __init__(self) -> None:
        self.asked = 0

    def reset(self, session: int, instruction: str) -> None:
        self.asked = 0

    def act(self, requests: Sequence[Request]) -> list[Any]:
        self.asked += 1
        height = 0.55 if self.asked < 4 else 0.47
        pose = np.array([-0.12, -0.12, height]), np.array([np.pi, 0, np.pi / 2]), -1.0
        return [[pose] * 3 for _ in requests]


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    made = make_env("C", render="none")
    yield made
    made.close()


@pytest.fixture(scope="module")
def chain() -> Chain:
    chains = load_chains("dev", scene=ASSETS.scene("C"))
    return replace(next(c for c in chains if not c.initial_state["led"]), tasks=TASKS)


def live(env: Any, chain: Chain, rules: Protocol) -> tuple[ChainOutcome, list[str]]:
    """A chain's outcome, and the hash of every state that the loop went through."""
    seen: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(env, name)

        def start(self, *state: Any) -> None:
            env.start(*state)
            seen.append(state_hash(env.get_state_obs()))

        def advance(self, action: Any) -> None:
            env.advance(action)
            seen.append(state_hash(env.get_state_obs()))

    sentences = load_instructions(PACK, ASSETS.instructions)
    runner = ChainRunner(Watched(), ORACLE, Press(), instructions=sentences, rules=rules)
    return runner.run(chain), seen


def actions_of(outcome: ChainOutcome) -> dict[int, Any]:
    return dict(enumerate(outcome.actions))


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_state_and_verdict_of_the_live_loop_comes_back(
    env: Any, chain: Chain, name: str
) -> None:
    rules = RULES[name]
    outcome, seen = live(env, chain, rules)
    record = outcome.record
    assert record.length >= 1
    states, fresh = [], []
    for step in replay_record(env, chain, record, actions_of(outcome), rules, ORACLE):
        subtask = record.subtasks[step.position]
        assert step.task == subtask.task == TASKS[step.position]
        assert step.last == (step.step == subtask.steps)
        assert step.success == (step.last and subtask.success)
        assert (step.task in step.achieved()) == step.success
        if step.step or step.fresh_world:  # a subtask begins where the one before it ended
            states.append(step.state_hash())
        if step.fresh_world:
            fresh.append(step.position)
    assert states == seen
    every = rules.world_reset == "subtask"
    assert fresh == (list(range(len(record.subtasks))) if every else [0])


def test_nothing_is_simulated_before_it_is_asked_for(env: Any, chain: Chain) -> None:
    steps = replay(env, chain, [[STILL, STILL], [STILL]], OFFICIAL)
    first = next(steps)
    before = first.state_hash()
    assert (first.position, first.step, first.last, first.action) == (0, 0, False, None)
    assert np.array_equal(env.get_state_obs()["scene_obs"], first.state()["scene_obs"])
    assert next(steps).state_hash() != before
    assert [(s.position, s.step, s.last) for s in steps] == [
        (0, 2, True),
        (1, 0, False),
        (1, 1, True),
    ]


def test_a_subtask_without_actions_is_its_first_state(env: Any, chain: Chain) -> None:
    (only,) = replay(env, chain, [()], OFFICIAL, ORACLE)
    assert only.last
    assert only.achieved() == set()


def test_an_action_that_none_is_ends_the_replay(env: Any, chain: Chain) -> None:
    steps = replay(env, chain, [[STILL, np.full(7, np.nan), STILL]], OFFICIAL)
    assert [next(steps).step, next(steps).step] == [0, 1]
    with pytest.raises(InvalidActionError):
        next(steps)


def test_without_an_oracle_nothing_is_judged(env: Any, chain: Chain) -> None:
    step = next(replay(env, chain, [[STILL]], OFFICIAL))
    assert step.info()["scene_info"]
    with pytest.raises(UsageError, match="without"):
        step.achieved()


def test_the_subtask_that_an_error_broke_off_is_simulated_too(env: Any, chain: Chain) -> None:
    outcome, _ = live(env, chain, RULES["official"])
    broken = replace(
        outcome.record, status="error", error="oh", subtasks=outcome.record.subtasks[:1]
    )
    steps = list(replay_record(env, chain, broken, actions_of(outcome), RULES["official"]))
    assert [step.position for step in steps if step.last] == [0, 1]


@pytest.mark.parametrize("tamper", ["change", "cut", "start"])
def test_actions_that_lead_elsewhere_are_refused(env: Any, chain: Chain, tamper: str) -> None:
    rules = RULES["official"]
    outcome, _ = live(env, chain, rules)
    actions = {position: list(taken) for position, taken in actions_of(outcome).items()}
    if tamper == "change":
        position, orientation, gripper = actions[1][2]
        actions[1][2] = (position + 1e-9, orientation, gripper)
    elif tamper == "cut":
        actions[1].pop()
    else:
        chain = replace(chain, scene_obs=load_chains("official")[0].scene_obs)
    where = f"chain {chain.id}, subtask {int(tamper != 'start')} "
    with pytest.raises(ReplayError, match=where):
        list(replay_record(env, chain, outcome.record, actions, rules))
