from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from requirements import need_package

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.sim.symbolic import TASK_NAMES

gymnasium = need_package("gymnasium", "the extra gym")
PlayTable = pytest.importorskip("calvin_eval.sim.gym").PlayTable
ID = "calvin_eval/PlayTable-v0"


@pytest.fixture
def env() -> Iterator[Any]:
    made = gymnasium.make(ID, task="open_drawer")
    yield made
    made.close()


def test_gymnasium_finds_it_by_its_name(env: Any) -> None:
    assert isinstance(env.unwrapped, PlayTable)
    named_with_its_module = gymnasium.make(f"calvin_eval.sim.gym:{ID}")
    assert named_with_its_module.spec.id == ID
    named_with_its_module.close()
    assert env.spec.max_episode_steps == 360
    assert env.unwrapped.metadata["render_fps"] == 30


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*Box.*")
def test_gymnasiums_own_checker_is_content(env: Any) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.slow
def test_images_are_observed_only_where_they_are_asked_for() -> None:
    from gymnasium.utils.env_checker import check_env

    made = gymnasium.make(
        ID, cameras=("static", "gripper"), backend="tiny", render_mode="rgb_array"
    )
    check_env(made.unwrapped)
    obs, _ = made.reset(seed=0)
    assert obs["rgb_static"].shape == (200, 200, 3)
    assert obs["rgb_gripper"].shape == (84, 84, 3)
    assert made.render().shape == (200, 200, 3)
    made.close()


def test_a_seed_decides_the_start(env: Any) -> None:
    first, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    assert np.array_equal(first["scene_obs"], again["scene_obs"])
    assert not np.array_equal(first["scene_obs"], other["scene_obs"])


def test_the_task_can_be_done_from_its_start(env: Any) -> None:
    for seed in range(8):
        obs, info = env.reset(seed=seed)
        assert obs["scene_obs"][1] == pytest.approx(0, abs=1e-3)  # the drawer is closed
        assert info["task"] == "open_drawer"
        assert info["instruction"]


PLACES = {"slider": "plank_link", "table": "base_link"}


@pytest.mark.slow
@pytest.mark.parametrize("scene", list("ABCD"))
@pytest.mark.parametrize("colour", ["red", "blue", "pink"])
@pytest.mark.parametrize("place", list(PLACES))
def test_a_block_lies_where_its_task_looks_for_it(scene: str, colour: str, place: str) -> None:
    made = gymnasium.make(ID, scene=scene, task=f"lift_{colour}_block_{place}")
    world = made.unwrapped._env
    for seed in range(3):
        made.reset(seed=seed)
        for _ in range(6):  # until it lies still
            made.step(np.zeros(7, np.float32))
        info = world.get_info()["scene_info"]
        table = info["fixed_objects"]["table"]
        block = info["movable_objects"][f"block_{colour}"]
        touched = {(contact[2], contact[4]) for contact in block["contacts"]}
        assert touched == {(table["uid"], table["links"][PLACES[place]])}
    made.close()


def test_a_task_that_is_done_ends_the_episode_with_a_reward() -> None:
    made = gymnasium.make(ID, task="turn_on_led")
    obs, _ = made.reset(seed=1)
    total, done = 0.0, False
    for _ in range(150):  # move above the button, then press it
        target = np.array([-0.12, -0.12, 0.56])
        if np.linalg.norm((obs["robot_obs"][:3] - target)[:2]) < 0.01:
            target[2] = 0.46
        motion = np.clip((target - obs["robot_obs"][:3]) / 0.02, -1, 1)
        obs, reward, done, truncated, info = made.step(np.array([*motion, 0, 0, 0, -1], np.float32))
        total += reward
        assert not truncated
        if done:
            break
    assert done
    assert info["success"]
    assert total == 1.0
    made.close()


def test_an_episode_is_truncated_after_the_benchmarks_budget() -> None:
    made = gymnasium.make(ID, task="close_drawer", max_episode_steps=3)
    made.reset(seed=0)
    outcomes = [made.step(np.zeros(7, np.float32))[2:4] for _ in range(3)]
    assert outcomes == [(False, False), (False, False), (False, True)]
    made.close()


def test_the_gripper_is_a_sign(env: Any) -> None:
    env.reset(seed=0)
    for value, command in ((0.01, 1.0), (0.0, -1.0), (-0.7, -1.0)):
        obs, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, value], np.float32))
        assert obs["robot_obs"][14] == command


@pytest.mark.slow
def test_every_reset_may_ask_for_another_task(env: Any) -> None:
    _, info = env.reset(seed=0, options={"task": "close_drawer"})
    assert info["task"] == "close_drawer"
    made = gymnasium.make(ID)
    assert len({made.reset(seed=s)[1]["task"] for s in range(12)}) > 4
    made.close()


def test_tasks_that_need_a_held_block_need_a_start_of_ones_own(env: Any) -> None:
    with pytest.raises(UsageError, match="cannot be the first task"):
        gymnasium.make(ID, task="stack_block")
    obs, _ = env.reset(seed=0)
    start = {"robot_obs": obs["robot_obs"], "scene_obs": obs["scene_obs"]}
    _, info = env.reset(options={"task": "stack_block", **start})
    assert info["task"] == "stack_block"
    with pytest.raises(UnknownNameError, match="open_drawer"):
        env.reset(options={"task": "open_drawr"})
    assert set(TASK_NAMES) >= {"stack_block"}


@pytest.mark.slow
def test_gymnasiums_vector_environments() -> None:
    for mode in ("sync", "async"):
        vector = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, task="close_drawer")
        obs, _ = vector.reset(seed=1)
        assert obs["robot_obs"].shape == (2, 15)
        obs, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
        assert reward.shape == terminated.shape == truncated.shape == (2,)
        vector.close()


def test_a_shift_is_drawn_anew_at_every_reset_from_the_seed() -> None:
    made = gymnasium.make(ID, task="open_drawer")
    try:
        shift = {"shift": "start=3,dynamics=2"}
        first, _ = made.reset(seed=4, options=shift)
        second, _ = made.reset(options=shift)
        again, _ = made.reset(seed=4, options=shift)
        clean, _ = made.reset(seed=4)
        assert np.array_equal(first["robot_obs"], again["robot_obs"])
        assert not np.array_equal(first["robot_obs"], second["robot_obs"])
        assert not np.array_equal(first["robot_obs"], clean["robot_obs"])
        with pytest.raises(UsageError, match="shifts of the world"):
            made.reset(options={"shift": "language=1"})
        with pytest.raises(UnknownNameError, match="axis of shifts"):
            made.reset(options={"shift": "camra=1"})
    finally:
        made.close()


@pytest.mark.slow
def test_progress_is_rewarded_as_it_is_made() -> None:
    made = gymnasium.make(ID, task="close_drawer", reward="progress", repeat=3)
    obs, info = made.reset(seed=2)
    total, done = info["progress"], False
    assert total == 0
    for _ in range(60):  # go in front of the drawer, then push it
        target = np.array([0.18, -0.4 - obs["scene_obs"][1], 0.36])
        if np.linalg.norm((obs["robot_obs"][:3] - target)[[0, 2]]) < 0.02:
            target[1] = 0.0
        motion = np.clip((target - obs["robot_obs"][:3]) / 0.06, -1, 1)
        obs, reward, done, _, info = made.step(np.array([*motion, 0, 0, 0, -1], np.float32))
        total += reward
        assert total == pytest.approx(info["progress"])
        assert done == (info["progress"] == 1)
        if done:
            break
    assert done
    made.close()


@pytest.mark.slow
def test_what_a_meter_looks_at_is_all_that_it_is_given() -> None:
    """Of every task that an episode may be about, at the first step."""
    from calvin_eval.sim.progress import looked_at

    table = PlayTable(reward="progress")
    table.reset(seed=0, options={"task": "open_drawer"})
    state = table._env.get_state_obs()
    for task in TASK_NAMES:
        table.reset(seed=0, options={"task": task, **state})
        table.step(np.zeros(7, np.float32))
        whole, part = table._env.get_info(), table._env.get_info(looked_at(table._env.world))
        assert table._meter.measure(part) == table._meter.measure(whole), task
    table.close()


def test_rewards_repeats_and_shifts_are_checked_at_once() -> None:
    with pytest.raises(UnknownNameError, match="progress"):
        PlayTable(reward="dense")
    with pytest.raises(UsageError, match="repeat"):
        PlayTable(repeat=0)
    with pytest.raises(UsageError, match="language"):
        PlayTable(shift="language=1")
    with pytest.raises(UsageError, match="at least one task"):
        PlayTable(task=[])
    tasks = ["open_drawer", "close_drawer"]
    made = PlayTable(task=tasks)
    assert {made.reset(seed=seed)[1]["task"] for seed in range(8)} == set(tasks)
    made.close()
