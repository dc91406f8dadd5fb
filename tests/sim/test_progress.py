"""Progress: 0 at the start, 1 at the oracle's threshold, below 0 the wrong way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import UnknownNameError
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.progress import MOST_UNACHIEVED, Meter, make_meter, progress

CHAIN = load_chains("official")[0]
SLIDE, DRAWER, BUTTON, SWITCH, BULB, LED = range(6)


@pytest.fixture(scope="module")
def env() -> Iterator[PlayTableEnv]:
    made = make_env("D", render="none")
    assert isinstance(made, PlayTableEnv)
    yield made
    made.close()


def begin(
    env: PlayTableEnv, task: str, change: Callable[[Any], object] = lambda scene: None
) -> Meter:
    """The meter of a task that begins in the first official state, changed."""
    scene = CHAIN.scene_obs.copy()
    change(scene)
    env.start(CHAIN.robot_obs, scene)
    return make_meter(task, env.world, env.get_info())


def put(scene: Any, joint: int, value: float) -> None:
    scene[joint] = value


def place_joint(env: PlayTableEnv, name: str, position: float) -> None:
    joints = [*env.world.doors, *(b.joint for b in env.world.buttons)]
    joints += [switch.joint for switch in env.world.switches]
    next(joint for joint in joints if joint.name == name).place(position)


def place_block(env: PlayTableEnv, name: str, move: Any, turn: float = 0.0) -> None:
    bullet, body = env.world.bullet, env.world.blocks[name]
    position, orientation = bullet.getBasePositionAndOrientation(body)
    about_z = bullet.getQuaternionFromEuler((0, 0, turn))
    turned = bullet.multiplyTransforms((0, 0, 0), about_z, (0, 0, 0), orientation)[1]
    bullet.resetBasePositionAndOrientation(body, np.add(position, move).tolist(), turned)


def test_nothing_is_done_at_the_start(env: PlayTableEnv) -> None:
    env.start(CHAIN.robot_obs, CHAIN.scene_obs)
    info = env.get_info()
    for task in TaskOracle().tasks:
        meter = make_meter(task, env.world, info)
        assert abs(meter.measure(info)) < 1e-6, task
        assert meter.objects, task


@pytest.mark.parametrize(
    ("task", "start", "threshold"),
    [("open_drawer", 0.05, 0.12), ("close_drawer", 0.2, -0.12), ("move_slider_left", 0.05, 0.15),
     ("move_slider_right", 0.25, -0.15)],
)  # fmt: skip
def test_doors(env: PlayTableEnv, task: str, start: float, threshold: float) -> None:
    joint = "base__drawer" if "drawer" in task else "base__slide"
    index = DRAWER if "drawer" in task else SLIDE
    meter = begin(env, task, lambda scene: put(scene, index, start))
    assert meter.objects == (joint,)
    for share in (0.5, -0.25, 0.99):
        place_joint(env, joint, start + share * threshold)
        assert meter.measure(env.get_info()) == pytest.approx(share, abs=1e-6)
    before = env.get_info()
    place_joint(env, joint, start)
    start_info = env.get_info()
    assert not TaskOracle().achieved(start_info, before, [task])
    place_joint(env, joint, start + 1.01 * threshold)
    assert TaskOracle().achieved(start_info, env.get_info(), [task])


@pytest.mark.parametrize(
    ("task", "sign"), [("push_red_block_right", 1), ("push_red_block_left", -1)]
)
def test_pushes(env: PlayTableEnv, task: str, sign: int) -> None:
    meter = begin(env, task)
    place_block(env, "block_red", (sign * 0.05, 0, 0))
    assert meter.measure(env.get_info()) == pytest.approx(0.5, abs=1e-6)
    place_block(env, "block_red", (-sign * 0.12, 0.03, 0))
    assert meter.measure(env.get_info()) == pytest.approx(-0.7, abs=1e-6)


def test_turns(env: PlayTableEnv) -> None:
    meter = begin(env, "rotate_red_block_left")
    place_block(env, "block_red", (0, 0, 0), np.deg2rad(30))
    assert meter.measure(env.get_info()) == pytest.approx(0.5, abs=1e-6)
    place_block(env, "block_red", (0, 0, 0), np.deg2rad(-60))
    assert meter.measure(env.get_info()) == pytest.approx(-0.5, abs=1e-6)
    place_block(env, "block_red", (0.11, 0, 0), np.deg2rad(90))
    assert meter.measure(env.get_info()) == 0, "moved too far, as the oracle has it"


def test_lifts_and_what_stands_in_their_way(env: PlayTableEnv) -> None:
    where = {name: env.world.box(name)[1][1] > 0.02 for name in env.world.blocks}
    inside = next(name for name, behind in where.items() if behind)
    colour = inside.removeprefix("block_")
    meter = begin(env, f"lift_{colour}_block_slider")
    assert meter.obstacle is None
    place_block(env, inside, (0, 0, 0.015))
    assert meter.measure(env.get_info()) == pytest.approx(0.5, abs=1e-6)
    assert "did not touch the table's top" in str(begin(env, f"lift_{colour}_block_table").obstacle)


def test_lights(env: PlayTableEnv) -> None:
    def off(scene: Any) -> None:
        scene[[BUTTON, SWITCH, BULB, LED]] = 0

    def lit(scene: Any) -> None:
        scene[[BUTTON, SWITCH, BULB, LED]] = 0, 0.088, 1, 1

    meter = begin(env, "turn_on_lightbulb", off)
    place_joint(env, "base__switch", 0.022)
    assert meter.measure(env.get_info()) == pytest.approx(0.5)
    meter = begin(env, "turn_off_lightbulb", lit)
    place_joint(env, "base__switch", 0.066)
    assert meter.measure(env.get_info()) == pytest.approx(0.5)
    assert begin(env, "turn_on_lightbulb", lit).obstacle == "the lightbulb was on"
    meter = begin(env, "turn_on_led", off)
    place_joint(env, "base__button", 0.005)
    assert meter.measure(env.get_info()) == pytest.approx(0.5 * MOST_UNACHIEVED)
    meter = begin(env, "turn_off_led", lit)  # under `pinned`, two presses
    place_joint(env, "base__button", 0.015)
    env.world.buttons[0].step()
    place_joint(env, "base__button", 0.0)
    assert meter.measure(env.get_info()) == pytest.approx(0.5)


def test_places_are_neared(env: PlayTableEnv) -> None:
    def opened(scene: Any) -> None:
        scene[DRAWER] = 0.22

    meter = begin(env, "push_into_drawer", opened)
    (name, *_) = meter.objects
    before = meter.measure(env.get_info())
    low, high = env.world.box("drawer_link")
    centre = np.array(env.world.bullet.getBasePositionAndOrientation(env.world.blocks[name])[0])
    goal = np.clip(centre, low + 0.01, high - 0.01)
    place_block(env, name, 0.5 * (goal - centre))
    half = meter.measure(env.get_info())
    place_block(env, name, 0.5 * (goal - centre))
    assert before == pytest.approx(0, abs=1e-6)
    assert 0.4 < half < 0.9
    assert meter.measure(env.get_info()) == pytest.approx(1)


def test_a_block_comes_down_on_another(env: PlayTableEnv) -> None:
    meter = begin(env, "stack_block")
    upper, lower = meter.objects[0], next(n for n in env.world.blocks if n not in meter.objects[:1])
    low, high = env.world.box(lower)
    mine = env.world.box(upper)
    onto = [*((low + high - mine[0] - mine[1]) / 2)[:2], high[2] - mine[0][2]]
    place_block(env, upper, onto)
    env.world.bullet.performCollisionDetection()
    assert meter.measure(env.get_info()) > 0.9
    assert make_meter("unstack_block", env.world, env.get_info()).objects


def test_only_the_oracle_says_that_all_is_done() -> None:
    assert progress(1.3, achieved=False) == MOST_UNACHIEVED
    assert progress(-2.0, achieved=False) == 0
    assert progress(0.4, achieved=True) == 1


def test_an_unknown_task_is_named(env: PlayTableEnv) -> None:
    env.start(CHAIN.robot_obs, CHAIN.scene_obs)
    with pytest.raises(UnknownNameError, match="open_drawer"):
        make_meter("open_drawers", env.world, env.get_info())
