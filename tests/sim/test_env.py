from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import (
    AssetError,
    InvalidActionError,
    InvalidStateError,
    RenderError,
    UnknownNameError,
    UsageError,
)
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.env import PlayTableEnv

CHAIN = load_chains("official")[0]
STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


def wander(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    motion = np.repeat(rng.uniform(-1, 1, (count // 8 + 1, 6)), 8, axis=0)[:count]
    return np.column_stack([motion, np.repeat(rng.choice([-1.0, 1.0], count // 8 + 1), 8)[:count]])


def roll(env: PlayTableEnv, actions: Any) -> Any:
    env.start(CHAIN.robot_obs, CHAIN.scene_obs)
    for action in actions:
        env.advance(action)
    state = env.get_state_obs()
    return np.concatenate([state["robot_obs"], state["scene_obs"]])


@pytest.fixture
def env() -> Iterator[PlayTableEnv]:
    with make_env("D") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        yield env


@pytest.mark.slow
def test_a_chain_is_a_function_of_its_inputs_whatever_ran_before(env: PlayTableEnv) -> None:
    actions = wander(60)
    first = roll(env, actions)
    roll(env, wander(45, seed=1))
    again = roll(env, actions)
    assert np.array_equal(first, again)
    with make_env("D") as other:
        assert np.array_equal(first, roll(other, actions))


@pytest.mark.slow
def test_two_environments_in_one_process_do_not_meet() -> None:
    actions = wander(40)
    with make_env("D") as alone:
        expected = {"D": roll(alone, actions)}
    with make_env("A") as alone:
        expected["A"] = roll(alone, actions)
    with make_env("D") as d, make_env("A") as a:
        for env in (d, a):
            env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        for action in actions:  # in turn, so that a shared client would show
            d.advance(action)
            a.advance(action)
        for name, env in (("D", d), ("A", a)):
            state = env.get_state_obs()
            found = np.concatenate([state["robot_obs"], state["scene_obs"]])
            assert np.array_equal(found, expected[name])


def test_closing_one_environment_leaves_the_other_alone() -> None:
    with make_env("D") as env:
        first = roll(env, wander(20))
        other = make_env("D")
        roll(other, wander(10, seed=3))
        other.close()
        other.close()
        assert np.array_equal(first, roll(env, wander(20)))
        with pytest.raises(UsageError, match="closed"):
            other.get_state_obs()


def test_reset_puts_the_world_into_the_state_it_is_given(env: PlayTableEnv) -> None:
    obs = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
    # One physics step passes, so blocks begin to settle and joints to yield.
    assert np.allclose(obs["scene_obs"], CHAIN.scene_obs, atol=5e-3)
    assert np.allclose(obs["robot_obs"], CHAIN.robot_obs, atol=5e-3)
    assert obs["rgb_obs"] == {}
    assert obs["depth_obs"] == {}


def test_a_reset_without_a_state_samples_blocks_from_the_seed() -> None:
    with make_env("D", seed=5) as one, make_env("D", seed=5) as two, make_env("D", seed=6) as three:
        first, same, other = (env.reset()["scene_obs"] for env in (one, two, three))
        assert np.array_equal(first, same)
        assert not np.array_equal(first, other)
        assert not np.array_equal(first, one.reset()["scene_obs"])
        assert np.allclose(first[:6], np.zeros(6), atol=1e-6)
        blocks = first[6:].reshape(3, 6)[:, :2]
        gaps = [np.linalg.norm(blocks[i] - blocks[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert min(gaps) > 0.1


def test_step_has_upstreams_shape(env: PlayTableEnv) -> None:
    obs, reward, done, info = env.step(STILL)
    assert (reward, done) == (0, False)
    assert set(obs) == {"rgb_obs", "depth_obs", "robot_obs", "scene_obs"}
    assert obs["robot_obs"].shape == (15,)
    assert obs["scene_obs"].shape == (24,)
    assert set(info["robot_info"]) == {
        "tcp_pos", "tcp_orn", "gripper_opening_width", "arm_joint_states", "gripper_action",
        "uid", "contacts",
    }  # fmt: skip
    scene = info["scene_info"]
    assert set(scene) == {
        "fixed_objects", "movable_objects", "doors", "buttons", "switches", "lights",
    }  # fmt: skip
    assert set(scene["fixed_objects"]["table"]) == {"uid", "links", "contacts"}
    assert set(scene["movable_objects"]["block_red"]) == {
        "current_pos", "current_orn", "current_lin_vel", "current_ang_vel", "contacts", "uid",
    }  # fmt: skip
    assert scene["lights"]["led"]["logical_state"] in (0, 1)


def test_the_callers_arrays_are_never_modified(env: PlayTableEnv) -> None:
    actions = [
        wander(1)[0],
        wander(1)[0].astype(np.float32),
        {"type": "cartesian_rel", "action": wander(1)[0]},
        {"type": "joint_rel", "action": np.array([0.1] * 7 + [1.0])},
    ]
    for action in actions:
        array = action["action"] if isinstance(action, dict) else action
        before = array.copy()
        array.setflags(write=False)
        env.advance(action)
        assert np.array_equal(array, before)
    robot_obs, scene_obs = CHAIN.robot_obs.copy(), CHAIN.scene_obs.copy()
    env.reset(robot_obs, scene_obs)
    env.advance(STILL)
    assert np.array_equal(robot_obs, CHAIN.robot_obs)
    assert np.array_equal(scene_obs, CHAIN.scene_obs)


def test_float32_actions_are_scaled_in_float32_as_upstream_does(env: PlayTableEnv) -> None:
    action = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 1])
    exact, single = roll(env, [action] * 3), roll(env, [action.astype(np.float32)] * 3)
    assert not np.array_equal(exact, single)
    assert np.allclose(exact, single, atol=1e-5)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(6), "shape \\(6,\\)"),
        (np.zeros((1, 7)), "shape \\(1, 7\\)"),
        (np.zeros(8), "shape \\(8,\\)"),
        ([0, 0, np.nan, 0, 0, 0, 1], "finite"),
        ([0, 0, np.inf, 0, 0, 0, 1], "finite"),
        ([0, 0, 0, 0, 0, 0, 0.3], "exactly -1"),
        ([0, 0, 0, 0, 0, 0, 0], "exactly -1"),
        (([0, 0, 0], [0, 0, 0], 2), "exactly -1"),
        (([0, 0], [0, 0, 0], 1), "tuple with shapes"),
        (([0, 0, 0], [0, 0, 0, 0, 0], 1), "tuple with shapes"),
        ({"type": "cartesian", "action": STILL}, "cartesian_rel"),
        ({"action": STILL}, "'type'"),
        ({"type": "joint_abs", "action": STILL}, "8 numbers"),
        ({"type": "cartesian_abs", "action": np.zeros(9)}, "7 or 8"),
        ("forward", "found action 'forward'"),
        (None, "found action None"),
        ([[0, 0], [0]], "found"),
    ],
)
def test_a_bad_action_is_refused_and_the_world_stays_usable(
    env: PlayTableEnv, action: Any, message: str
) -> None:
    env.start(CHAIN.robot_obs, CHAIN.scene_obs)
    before = env.get_state_obs()
    with pytest.raises(InvalidActionError, match=message):
        env.advance(action)
    after = env.get_state_obs()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert np.array_equal(roll(env, wander(8)), roll(env, wander(8)))


@pytest.mark.parametrize(
    ("robot_obs", "scene_obs", "message"),
    [
        (np.zeros(14), CHAIN.scene_obs, "robot_obs to be 15"),
        (CHAIN.robot_obs, np.zeros(23), "scene_obs to be 24"),
        (np.full(15, np.nan), CHAIN.scene_obs, "finite"),
        (CHAIN.robot_obs, np.where(np.arange(24) == 4, 0.5, CHAIN.scene_obs), "0 or 1"),
    ],
)
def test_a_bad_state_is_refused_and_the_world_stays_usable(
    env: PlayTableEnv, robot_obs: Any, scene_obs: Any, message: str
) -> None:
    before = env.get_state_obs()
    with pytest.raises(InvalidStateError, match=message):
        env.reset(robot_obs, scene_obs)
    assert np.array_equal(before["scene_obs"], env.get_state_obs()["scene_obs"])


def test_wrong_names_suggest_the_right_one() -> None:
    with pytest.raises(UnknownNameError, match="expected one of A, B, C, D"):
        make_env("E")
    with pytest.raises(UnknownNameError, match="Did you mean 'pinned'"):
        make_env("D", revision="pined")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny'"):
        make_env("D", render="tinny")
    with pytest.raises(AssetError, match="nowhere"):
        make_env("D", assets="nowhere")


def test_calls_before_the_first_reset_say_so() -> None:
    with make_env("D") as env, pytest.raises(UsageError, match="reset"):
        env.advance(STILL)


def test_images_need_a_renderer_and_tactile_ones_are_out_of_scope(env: PlayTableEnv) -> None:
    with pytest.raises(RenderError, match="render='none'"):
        env.render()
    with pytest.raises(RenderError, match="tactile"):
        make_env("D", render="tiny", cameras=("static", "tactile"))
    with pytest.raises(UnknownNameError, match="Did you mean 'static'"):
        make_env("D", render="tiny", cameras=("statik",))


def test_revisions_differ_in_the_button_under_a_lit_led() -> None:
    scene_obs = CHAIN.scene_obs.copy()
    scene_obs[5] = 1  # the LED is on
    logical = {}
    for revision in ("pinned", "head"):
        with make_env("D", revision=revision) as env:
            env.start(CHAIN.robot_obs, scene_obs)
            info = env.get_info()["scene_info"]
            assert info["lights"]["led"]["logical_state"] == 1
            logical[revision] = info["buttons"]["base__button"]["logical_state"]
    assert logical == {"pinned": 0, "head": 1}


def test_the_oracle_needs_only_what_the_task_is_judged_by(env: PlayTableEnv) -> None:
    oracle = TaskOracle(env.world.pack)
    assert len(oracle.tasks) == 34
    for task in oracle.tasks:
        needs = oracle.needs((task,))
        start, end = env.get_info(needs), env.get_info(needs)
        whole = env.get_info()
        assert oracle.achieved(start, end, (task,)) == oracle.achieved(whole, whole, (task,))
    light = env.get_info(oracle.needs(("turn_on_led",)))["scene_info"]
    assert light["doors"] == {}
    assert set(light["movable_objects"]["block_red"]) == {"uid"}
    with pytest.raises(UnknownNameError, match="Did you mean 'open_drawer'"):
        oracle.achieved(start, end, ("open_draw",))


def test_moving_a_door_is_judged_by_its_joint(env: PlayTableEnv) -> None:
    oracle = TaskOracle(env.world.pack)
    start = env.get_info()
    drawer = next(door for door in env.world.doors if door.name == "base__drawer")
    drawer.place(drawer.position + (0.13 if drawer.position < 0.05 else -0.13))
    expected = "open_drawer" if drawer.position > 0.1 else "close_drawer"
    assert oracle.achieved(start, env.get_info()) == {expected}
