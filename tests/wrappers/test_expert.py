from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from calvin_eval.errors import PolicyError, UnknownNameError
from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.symbolic import TASK_NAMES
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.builtin.expert.tasks import program
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Policy, Request

CHAINS = load_chains("official")
PRESSED = 0.010  # of the button's joint, metres


@pytest.fixture(scope="module")
def env() -> Iterator:
    made = make_env("D", render="none")
    yield made
    made.close()


def ask(env, session: int, task: str, position: int = 0) -> Request:
    return Request(
        session=session,
        instruction="",
        position=position,
        step=0,
        obs=env.get_state_obs(),
        info=env.get_info(),
        task=task,
    )


def actions_of(env, policy: Policy, chain: Chain, steps: int) -> np.ndarray:
    """The first actions of the chain's first subtask, executed in a fresh world."""
    env.start(chain.robot_obs, chain.scene_obs)
    policy.reset(chain.id, "")
    taken = []
    for _ in range(steps):
        (chunk,) = policy.act([ask(env, chain.id, chain.tasks[0])])
        assert chunk.shape == (1, 7)
        taken.append(chunk[0].copy())
        env.advance(taken[-1])
    return np.stack(taken)


def runner(env, policy: Policy, **keywords) -> ChainRunner:
    instructions = load_instructions("pack", load_pack("builtin").instructions)
    return ChainRunner(env, TaskOracle(), policy, instructions=instructions, **keywords)


def test_actions_are_valid_repeatable_and_forgotten_at_reset(env):
    policy, chain = ExpertPolicy(), CHAINS[0]
    first = actions_of(env, policy, chain, 60)
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1
    assert set(first[:, 6]) <= {-1.0, 1.0}
    np.testing.assert_array_equal(first, actions_of(env, policy, chain, 60))
    np.testing.assert_array_equal(first, actions_of(env, ExpertPolicy(), chain, 60))


@pytest.mark.slow
def test_sessions_do_not_disturb_each_other():
    policy, chains = ExpertPolicy(), (CHAINS[0], CHAINS[7])
    worlds = [make_env("D", render="none") for _ in chains]
    alone = [actions_of(w, ExpertPolicy(), c, 40) for w, c in zip(worlds, chains, strict=True)]
    for world, chain in zip(worlds, chains, strict=True):
        world.start(chain.robot_obs, chain.scene_obs)
        policy.reset(chain.id, "")
    for step in range(40):
        requests = [ask(w, c.id, c.tasks[0]) for w, c in zip(worlds, chains, strict=True)]
        for i, (world, chunk) in enumerate(zip(worlds, policy.act(requests), strict=True)):
            np.testing.assert_array_equal(chunk[0], alone[i][step])
            world.advance(chunk[0])
    for world in worlds:
        world.close()


def test_a_new_position_is_a_new_subtask_even_without_reset(env):
    chain = CHAINS[0]
    env.start(chain.robot_obs, chain.scene_obs)
    policy = ExpertPolicy()
    policy.act([ask(env, 0, "open_drawer")])
    (after,) = policy.act([ask(env, 0, "turn_on_led", position=1)])
    (fresh,) = ExpertPolicy().act([ask(env, 0, "turn_on_led")])
    np.testing.assert_array_equal(after, fresh)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["open_drawer", "push_red_block_left"])
def test_told_what_others_did_instead_it_still_knows_the_way(env, task):
    chain = next(c for c in CHAINS if c.tasks[0] == task)
    env.start(chain.robot_obs, chain.scene_obs)
    oracle, policy, rng = TaskOracle(), ExpertPolicy(), np.random.default_rng(0)
    start = env.get_info()
    for step in range(360):
        (chunk,) = policy.act([ask(env, chain.id, task)])
        action = chunk[0]
        if step < 120 and step % 2:  # what is said and not done for a third of the budget
            action = np.append(rng.uniform(-1, 1, 6), action[6])
            policy.follow(chain.id, action)
        elif step < 40:  # and nobody moves at first
            action = np.append(np.zeros(6), action[6])
            policy.follow(chain.id, action)
        env.advance(action)
        if oracle.achieved(start, env.get_info(), (task,)):
            break
    assert step < 359


def test_its_sum_is_the_simulators_target_whoever_acts(env):
    chain, policy = CHAINS[0], ExpertPolicy()
    env.start(chain.robot_obs, chain.scene_obs)
    target = env.get_state_obs()["robot_obs"][:3].copy()
    for step in range(30):
        (chunk,) = policy.act([ask(env, chain.id, chain.tasks[0])])
        action = chunk[0] if step % 3 else np.append(0.3 * chunk[0][:6], 1.0)
        if not step % 3:
            policy.follow(chain.id, action)
        env.advance(action)
        target += 0.02 * np.clip(action[:3], -1, 1)
    arm = policy._sessions[chain.id]._arm
    # It stood still first to know where the target was, to within what the arm is off by then.
    np.testing.assert_allclose(arm.target[0], target, atol=2e-3)


def covering(chains) -> list[Chain]:
    """Few chains that ask for all tasks between them, the shortest list that greed finds."""
    missing, chosen = set(TASK_NAMES), []
    while missing:
        best = max(chains, key=lambda c: (len(missing & set(c.tasks)), -c.id))
        chosen.append(best)
        missing -= set(best.tasks)
    return chosen


def test_every_task_has_a_program():
    for task in TASK_NAMES:
        assert callable(program(task))


@pytest.mark.slow
def test_every_task_succeeds_in_the_builtin_pack(env):
    solved = set()
    run = runner(env, ExpertPolicy())
    chains = covering(CHAINS.chains[:200])
    results = [run.run(chain).record for chain in chains]
    assert all(record.status == "completed" for record in results)
    for record in results:
        solved |= {subtask.task for subtask in record.subtasks if subtask.success}
    assert solved == set(TASK_NAMES)
    lengths = [sum(subtask.success for subtask in record.subtasks) for record in results]
    assert np.mean(lengths) >= 4.5


@pytest.mark.parametrize(("revision", "presses"), [("pinned", 2), ("head", 1)])
def test_a_led_that_was_lit_at_reset_takes_two_presses_under_pinned(revision, presses):
    chain = next(c for c in CHAINS if c.tasks[0] == "turn_off_led")
    env = make_env("D", revision=revision, render="none")
    pressed = [False]

    def look(position: int) -> None:
        if position == 0:
            pressed.append(env.get_state_obs()["scene_obs"][2] > PRESSED)

    record = runner(env, ExpertPolicy(), on_step=look).run(replace(chain, tasks=chain.tasks[:1]))
    env.close()
    assert record.record.subtasks[0].success
    assert sum(b and not a for a, b in pairwise(pressed)) == presses


@pytest.mark.parametrize("task", ["open_window", "lift_green_block_table", "push_red_block_up", ""])
def test_an_unknown_task_is_refused(env, task):
    chain = CHAINS[0]
    env.start(chain.robot_obs, chain.scene_obs)
    with pytest.raises(UnknownNameError, match="unknown task"):
        ExpertPolicy().act([ask(env, 0, task)])


def test_requests_without_privileged_state_are_refused(env):
    chain = CHAINS[0]
    env.start(chain.robot_obs, chain.scene_obs)
    with pytest.raises(PolicyError, match="privileged"):
        ExpertPolicy().act([replace(ask(env, 0, "open_drawer"), info=None)])
    with pytest.raises(PolicyError, match="privileged"):
        ExpertPolicy().act([replace(ask(env, 0, "open_drawer"), task=None)])


def test_an_unknown_scene_is_refused():
    with pytest.raises(UnknownNameError, match="unknown scene"):
        ExpertPolicy("E")


def test_the_loader_makes_it_for_the_runs_scene():
    loaded = resolve("builtin:expert", scene="B")
    assert loaded.policy.scene == "B"  # type: ignore[attr-defined]
    assert loaded.policy.requirements.privileged
    assert loaded.policy.requirements.cameras == ()
    assert loaded.metadata["scene"] == "B"
    with pytest.raises(UnknownNameError):
        resolve("builtin:expert", options={"speed": 2})
