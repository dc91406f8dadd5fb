"""The world and the oracle against traces recorded from upstream's own code, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from requirements import need_egl

from calvin_eval.sim import TaskOracle, make_env
from calvin_eval.sim.env import PlayTableEnv

pytestmark = pytest.mark.slow

TRACES = [
    *[(f"pinned/scene{s}.npz", s, f"scene{s}_chain{c:04d}") for s in "ABC" for c in (6, 7)],
    *[("pinned/sceneD.npz", "D", f"chain{c:04d}") for c in range(12)],
    *[("head/sceneD.npz", "D", f"chain{c:04d}") for c in range(12)],
]
FORMS: dict[str, Callable[[Any], Any]] = {
    "abs_euler": lambda a: (a[:3], a[3:6], a[6]),
    "abs_quat": lambda a: (a[:3], a[3:7], a[7]),
    "joint_abs": lambda a: {"type": "joint_abs", "action": a},
    "joint_rel": lambda a: {"type": "joint_rel", "action": a},
}


def assert_state(env: PlayTableEnv, robot_obs: Any, scene_obs: Any, when: object) -> None:
    state = env.get_state_obs()
    assert np.array_equal(state["robot_obs"], robot_obs), f"robot_obs differs {when}"
    assert np.array_equal(state["scene_obs"], scene_obs), f"scene_obs differs {when}"


def assert_trace(
    env: PlayTableEnv, start: tuple[Any, Any], trace: Any, key: str, as_action: Any, names: Any
) -> None:
    oracle = TaskOracle(env.world.pack)
    robot_obs, scene_obs = trace[f"{key}_robot_obs"], trace[f"{key}_scene_obs"]
    env.start(*start)
    assert_state(env, robot_obs[0], scene_obs[0], "after reset")
    before = env.get_info()
    for i, action in enumerate(trace[f"{key}_actions"]):
        env.advance(as_action(action))
        assert_state(env, robot_obs[i + 1], scene_obs[i + 1], f"after action {i}")
        done = oracle.achieved(before, env.get_info())
        mask = sum(1 << k for k, name in enumerate(names) if name in done)
        assert mask == trace[f"{key}_achieved"][i], f"verdicts differ after action {i}: {done}"


@pytest.mark.parametrize(("file", "scene", "key"), TRACES)
def test_states_and_verdicts_of_every_step_are_upstreams(
    golden: Path, official: str, initial_states: Any, file: str, scene: str, key: str
) -> None:
    trace = np.load(golden / file)
    chain = int(key[-4:])
    start = (initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
    revision: Any = file.split("/")[0]
    with make_env(scene, assets=official, revision=revision) as env:
        assert_trace(env, start, trace, key, lambda a: a, trace["task_names"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chain", [6, 7])
def test_every_action_form_moves_as_upstreams(
    golden: Path, official: str, initial_states: Any, form: str, chain: int
) -> None:
    trace = np.load(golden / "head/action_modes.npz")
    names = np.load(golden / "head/sceneD.npz")["task_names"]
    start = (initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
    with make_env("D", assets=official, revision="head") as env:
        assert_trace(env, start, trace, f"{form}_chain{chain:04d}", FORMS[form], names)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_solved_chain_replays_to_the_same_verdicts_steps_and_states(
    golden: Path, official: str, initial_states: Any, part: int
) -> None:
    trace = np.load(golden / "expert/pinned_sceneD.npz")
    index = json.loads(str(trace["index"]))
    oracle = TaskOracle(official)
    with make_env("D", assets=official) as env:
        for chain, subtasks in groupby(index, key=lambda entry: entry[0]):
            if chain % 8 != part:
                continue
            env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
            for _, position, task, success, steps in subtasks:
                key = f"chain{chain:04d}_sub{position}"
                needs = oracle.needs((task,))
                before = env.get_info(needs)
                achieved_at = None
                for i, action in enumerate(trace[f"{key}_actions"]):
                    env.advance(action)
                    if oracle.achieved(before, env.get_info(needs), (task,)):
                        achieved_at = i + 1
                        break
                assert achieved_at == (steps if success else None), f"{key} {task}"
                assert_state(env, trace[f"{key}_robot_obs"], trace[f"{key}_scene_obs"], key)


def golden_frames(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.png"))


def compare_frames(
    folder: Path, golden: Path, official: str, initial_states: Any, backend: str
) -> list[tuple[str, float, float]]:
    """Per frame: its name, the colours' PSNR in dB, and the share of depths that differ."""
    import imageio.v3 as iio

    actions = np.load(golden / "head/sceneD.npz")
    rows = []
    for scene, names in groupby(golden_frames(folder), key=lambda name: name[5]):
        depths = np.load(folder / f"depth_scene{scene}.npz")
        with make_env(scene, assets=official, revision="head", render=backend) as env:
            for name in names:
                _, chain, step, camera = name.split("_")
                env.start(*(initial_states[k][int(chain[5:])] for k in ("robot_obs", "scene_obs")))
                for action in actions[f"{chain}_actions"][: int(step[4:])]:
                    env.advance(action)
                obs = env.observe(rgb=(camera,), depth=(camera,))
                image = obs["rgb_obs"][f"rgb_{camera}"].astype(float)
                depth = obs["depth_obs"][f"depth_{camera}"]
                error = np.mean((image - iio.imread(folder / f"{name}.png")[..., :3]) ** 2)
                psnr = 10 * np.log10(255**2 / error) if error else np.inf
                rows.append((name, psnr, float(np.mean(depth != depths[name]))))
    return rows


@pytest.mark.slow
def test_tiny_renderer_draws_upstreams_images_pixel_for_pixel(
    golden: Path, official: str, initial_states: Any
) -> None:
    folder = golden / "frames_tiny"
    rows = compare_frames(folder, golden, official, initial_states, "tiny")
    assert len(rows) == 36
    assert [row for row in rows if row[1:] != (np.inf, 0.0)] == []


@pytest.mark.slow
def test_egl_draws_upstreams_images(golden: Path, official: str, initial_states: Any) -> None:
    need_egl()
    folder = golden / "frames_egl_llvmpipe"
    rows = compare_frames(folder, golden, official, initial_states, "egl")
    assert len(rows) == 18
    # The same driver gives the same pixels; another one rounds and filters a little differently.
    assert min(psnr for _, psnr, _ in rows) >= 35
