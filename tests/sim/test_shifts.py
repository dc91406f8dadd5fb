"""Shifts: how they are named, and what they make of a chain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.shifts import AXES, LEVELS, NO_SHIFTS, Shifts
from calvin_eval.sim.chains import Chain, ChainList, load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.dynamics import Dynamics
from calvin_eval.sim.shifts.starts import tcp_pose
from calvin_eval.sim.shifts.variant import Variant, both_ways

PACK = load_pack("builtin")
OFFICIAL = load_chains("official")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "shifts.md").read_text(encoding="utf-8")


@cache
def clean_in(scene: str) -> ChainList:
    return load_chains("official", scene=PACK.scene(scene))


def variant(text: str, chain: int = 3, scene: str = "D") -> Chain:
    return shifted(clean_in(scene)[chain], Shifts.parse(text), PACK.scene(scene))


def test_shifts_are_text_and_back_in_the_order_of_the_table() -> None:
    shifts = Shifts.parse(" layout=2, start=5 ,seed=7")
    assert str(shifts) == "start=5,layout=2,seed=7"
    assert Shifts.parse(str(shifts)) == shifts
    assert (shifts.level("start"), shifts.level("layout"), shifts.seed) == (5, 2, 7)
    assert Shifts.join(["layout=2", "start=5,seed=7"]) == shifts
    assert shifts
    for nothing in (None, "", " , "):
        assert Shifts.parse(nothing) == NO_SHIFTS
        assert not Shifts.parse(nothing)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("strat=1", UnknownNameError, "start"),
        ("start=6", UsageError, "levels 1, 2, 3, 4, 5; found 6"),
        ("start=0", UsageError, "found 0"),
        ("start=-1", UsageError, "found -1"),
        ("start=1.0", UsageError, r"found 1\.0"),
        ("start", UsageError, "a shift such as camera=3, found 'start'"),
        ("start=1,start=2", UsageError, "two in"),
        ("seed=3", UsageError, "an axis beside the seed"),
        ("start=1,seed=x", UsageError, "a number from 0 up, found x"),
    ],
)
def test_what_is_no_shift_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Shifts.parse(text)


def test_every_range_stands_in_the_docs() -> None:
    for name, axis in AXES.items():
        assert f"`{name}`: {axis.about}" in PAGE
        for quantity in axis.ranges.values():
            numbers = " | ".join(f"{span:g}" for span in quantity.spans)
            row = f"| `{name}` | {axis.kind} | {quantity.about} | {quantity.unit} | {numbers} |"
            assert row in PAGE
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == {*AXES}


def test_levels_go_further_and_further() -> None:
    for axis in AXES.values():
        for quantity in axis.ranges.values():
            assert list(quantity.spans) == sorted(quantity.spans)
            assert quantity.at(5) > quantity.at(1)


def test_without_shifts_a_chain_is_itself() -> None:
    assert shifted(OFFICIAL[3], NO_SHIFTS, PACK.scene("D")) is OFFICIAL[3]


def test_a_variant_depends_on_its_own_axis_seed_and_chain_alone() -> None:
    alone = variant("layout=3")
    assert alone.scene_obs.tolist() == variant("start=5,layout=3").scene_obs.tolist()
    assert alone.robot_obs.tolist() == OFFICIAL[3].robot_obs.tolist()
    assert variant("layout=3,seed=1").scene_obs.tolist() != alone.scene_obs.tolist()
    others = [variant("start=3", chain).robot_obs[7:14].tolist() for chain in range(5)]
    assert len({tuple(joints) for joints in others}) == 5


def test_numbers_that_no_release_may_change() -> None:
    """Published runs name shifts, and nothing else says what they were."""
    drawn = Variant(shifts=Shifts.parse("start=3"), chain=3).stream("start", "joint")
    assert drawn.uniform(-1, 1, 2).tolist() == [0.16807494213757668, 0.351132174814601]


def test_numbers_lie_between_half_the_span_and_all_of_it() -> None:
    found = np.abs(both_ways(np.linspace(-1, 1, 101)))
    assert found.min() >= 0.5
    assert found.max() == 1
    moved = Variant(shifts=Shifts.parse("layout=5"), chain=0).either_way("layout", "yaw", 50)
    assert set(np.sign(moved)) == {-1, 1}
    assert np.radians(22.5) <= np.abs(moved).min()
    assert np.abs(moved).max() <= np.radians(45)


@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_shifted_start_is_where_it_says(scene: str, level: int) -> None:
    """Every joint is turned, and the tcp pose in the state is the one that the joints give."""
    clean = clean_in(scene)
    for chain in range(0, 1000, 197):
        moved = variant(f"start={level}", chain, scene)
        turns = np.abs(moved.robot_obs[7:14] - clean[chain].robot_obs[7:14])
        span = AXES["start"].ranges["joint"].at(level)
        assert span / 2 - 1e-12 <= turns.min()
        assert turns.max() <= span + 1e-12
        assert moved.robot_obs[2] >= 0.52  # above the table
        assert (
            moved.robot_obs[:6].tolist()
            == tcp_pose(moved.robot_obs[7:14], PACK.scene(scene)).tolist()
        )
        assert moved.given


def test_the_tcp_pose_of_joints_is_the_simulators() -> None:
    with make_env("D") as env:
        for chain in (0, 3, 99):
            moved = variant("start=5", chain)
            env.start(moved.robot_obs, moved.scene_obs, moved.variant)
            found = env.get_state_obs()["robot_obs"]
            assert np.allclose(found[:6], moved.robot_obs[:6], atol=1e-8)


@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
def test_a_shifted_layout_keeps_every_block_on_its_surface(scene: str) -> None:
    clean = clean_in(scene)
    for chain in range(0, 1000, 37):
        before, after = clean[chain].scene_obs, variant("layout=5", chain, scene).scene_obs
        assert after[2:6].tolist() == before[2:6].tolist()  # button, switch and lights
        for joint in (0, 1):
            assert 0.02 <= abs(after[joint] - before[joint]) <= 0.04
            assert (after[joint] > 0.1) == (before[joint] > 0.1)
        old, new = before[6:].reshape(3, 6), after[6:].reshape(3, 6)
        assert (new[:, 2:5] == old[:, 2:5]).all()
        assert ((new[:, 1] < 0.02) == (old[:, 1] < 0.02)).all()
        in_slot = old[:, 1] > 0.02
        assert (new[in_slot, 1] == old[in_slot, 1]).all()
        assert np.abs(new[:, :2] - old[:, :2]).max() <= 0.07
        gaps = [np.linalg.norm(new[i, :2] - new[j, :2]) for i in range(3) for j in range(i)]
        assert min(gaps) >= 0.1


def test_blocks_of_a_shifted_layout_lie_still() -> None:
    """A block that falls, or starts inside of something, is no start state."""
    with make_env("D") as env:
        for chain in (0, 5, 17, 120):
            moved = variant("layout=5", chain)
            env.start(moved.robot_obs, moved.scene_obs, moved.variant)
            for _ in range(30):
                env.advance(np.array([0, 0, 0, 0, 0, 0, 1.0]))
            rest = env.get_state_obs()["scene_obs"]
            assert (
                np.abs(rest - moved.scene_obs)[[0, 1, 6, 7, 8, 12, 13, 14, 18, 19, 20]].max() < 3e-3
            )


def test_a_start_that_cannot_be_shifted_says_so() -> None:
    near = OFFICIAL[3].scene_obs.copy()
    near[6:8] = near[12:14] = (0.0, -0.1)
    chain = replace(OFFICIAL[3], scene_obs=near, given=True)
    with pytest.raises(UsageError, match="no shifted layout keeps its blocks apart"):
        shifted(chain, Shifts.parse("layout=1"), PACK.scene("D"))


OPEN = np.array([0, 0, 0, 0, 0, 0, 1.0])


def played(text: str, actions: Sequence[Any], chain: int = 3) -> list[np.ndarray]:
    """The states that actions lead to."""
    moved = variant(text, chain) if text else OFFICIAL[chain]
    with make_env("D") as env:
        env.start(moved.robot_obs, moved.scene_obs, moved.variant)
        states = []
        for action in actions:
            env.advance(action)
            states.append(np.concatenate([*env.get_state_obs().values()]))
    return states


def test_dynamics_are_the_same_every_time_and_not_the_benchmarks() -> None:
    actions = [np.array([0.5, 0.2, -0.4, 0, 0, 0.3, -1.0])] * 12
    first, second, clean = (played(text, actions) for text in ("dynamics=4", "dynamics=4", ""))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[-1][:15], clean[-1][:15])


@pytest.mark.parametrize(("level", "late"), [(2, 0), (4, 1), (5, 2)])
def test_actions_are_executed_late_and_none_is_lost(level: int, late: int) -> None:
    """The gripper's command, which no error disturbs, shows when an action is executed."""
    commands = [-1.0, 1.0, -1.0, -1.0, 1.0, 1.0]
    actions = [np.append(np.zeros(6), command) for command in commands]
    found = [state[14] for state in played(f"dynamics={level}", actions)]
    assert found == [1.0] * late + commands[: len(commands) - late]


@pytest.mark.parametrize("form", ["relative", "pose", "quaternion", "joints"])
def test_every_form_of_action_can_be_disturbed(form: str) -> None:
    start = OFFICIAL[3].robot_obs
    action: Any = {
        "relative": OPEN,
        "pose": (start[:3], start[3:6], 1),
        "quaternion": (start[:3], np.array([1.0, 0, 0, 0]), 1),
        "joints": {"type": "joint_abs", "action": np.append(start[7:14], 1)},
    }[form]
    still, shaken = played("", [action] * 8), played("dynamics=2", [action] * 8)
    difference = np.abs(still[-1][7:14] - shaken[-1][7:14]).max()
    assert 1e-6 < difference < 0.03


def test_blocks_have_the_size_friction_and_mass_of_their_variant() -> None:
    with make_env("D") as env:
        world = env.world
        world.drawn_by_bullet = True
        env.start(OFFICIAL[3].robot_obs, OFFICIAL[3].scene_obs)
        body = next(iter(world.blocks.values()))
        before = world.bullet.getDynamicsInfo(body, -1)
        size = np.array(world.bullet.getVisualShapeData(body)[0][3])
        moved = variant("dynamics=5")
        env.start(moved.robot_obs, moved.scene_obs, moved.variant)
        body = next(iter(world.blocks.values()))
        dynamics = Dynamics.of(moved.variant)
        after = world.bullet.getDynamicsInfo(body, -1)
        assert after[0] == pytest.approx(before[0] * dynamics.mass)
        assert after[1] == pytest.approx(before[1] * dynamics.friction)
        found = np.array(world.bullet.getVisualShapeData(body)[0][3])
        assert np.allclose(found, size * dynamics.size)
        assert world.robot.grip == dynamics.grip
        env.start(OFFICIAL[3].robot_obs, OFFICIAL[3].scene_obs)  # and the next is clean again
        body = next(iter(world.blocks.values()))
        assert world.bullet.getDynamicsInfo(body, -1)[:2] == before[:2]
        assert world.robot.grip == 1


def test_blocks_of_another_size_lie_still_where_they_start() -> None:
    moved = variant("dynamics=5")
    rest = played("dynamics=5", [OPEN] * 20)[-1][15:]
    assert np.abs(rest[8::6] - moved.scene_obs[8::6]).max() < 2e-3
