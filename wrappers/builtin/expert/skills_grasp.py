"""Grasping and lifting blocks."""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_reach import (
    FRONT,
    TRAVEL_Z,
    place_of,
    point,
    pose,
    retreat,
    tool_axis,
    travel,
)
from calvin_eval.wrappers.builtin.expert.skills_table import slide
from calvin_eval.wrappers.builtin.expert.view import Block

CABINET_PITCH = -0.8
YAW_RANGE = (-0.55, 4.2)


def grip_yaw(block: Block, current: float, turn: float = 0.0) -> float:
    """The yaw that grips across the short side, with room for a turn, nearest to `current`."""
    step = np.pi / 2 if block.square else np.pi
    low, high = YAW_RANGE
    candidates = [block.yaw + k * step for k in range(-8, 9)]
    fit = [y for y in candidates if low <= y <= high and low <= y + turn <= high]
    near = block.position[1] > -0.09  # the hand is wide along the fingers' axis

    def cost(yaw: float) -> float:
        across = abs(np.cos(yaw)) + abs(np.cos(yaw + turn)) if near else 0.0
        return abs(yaw - current) + 0.3 * abs(yaw + turn / 2 - FRONT) + 4.0 * across

    return min(fit or candidates, key=cost)


def clear_door(arm: Arm, x: float, margin: float = 0.115) -> Motion:
    """Slide the door away from a place in the cabinet if it is in the way."""
    view = arm.view
    left, right = view.door
    if x > right + margin or x < left - margin:
        return
    table = view.table
    ends = [s for s in (0.0, table.door_range)
            if not table.door - s - margin < x < table.door - s + 0.28 + margin]  # fmt: skip
    if not ends:
        ends = [max((0.0, table.door_range), key=lambda s: abs(table.door - s + 0.14 - x))]
    end = min(ends, key=lambda s: abs(s - view.slide))
    if abs(end - view.slide) > 0.02:
        yield from slide(arm, end)


def grasp(arm: Arm, name: str, turn: float = 0.0, yaw: float | None = None) -> Motion:
    """Close the hand around a block where it lies; tries again until it holds.

    Args:
        arm: the arm.
        name: the block.
        turn: radians by which the hand will be turned with it.
        yaw: of the hand; the best if None.
    """
    view = arm.view
    for _ in range(4):
        block = view.blocks[name]
        place = place_of(view, block)
        if place == "cabinet":
            yield from clear_door(arm, block.position[0])
            yield from _grasp_in_cabinet(arm, name)
        else:
            yield from _grasp_from_above(arm, name, place, turn, yaw)
        if view.blocks[name].touched and view.width > 0.01:
            return
        yield from arm.open()


def _grasp_from_above(arm: Arm, name: str, place: str, turn: float, yaw: float | None) -> Motion:
    view = arm.view
    block = view.blocks[name]
    euler = pose(grip_yaw(block, view.euler[2], turn) if yaw is None else yaw)
    x, y, z = block.position
    arm.grip = 1.0
    yield from travel(arm, point(x, y, max(TRAVEL_Z - 0.03, z + 0.06)), euler, tolerance=0.012)
    block = view.blocks[name]
    x, y, z = block.position
    top = z + block.height / 2
    yield from arm.move(point(x, y, top + 0.03), euler, tolerance=0.01)
    yield from arm.open()
    offset = 0.004 if place == "drawer" else -0.002
    stacked = any(b.position[2] < z - 0.02 for b in view.neighbours(block))
    if stacked:
        offset = 0.002  # the fingertips must not touch the block below
    grip = max(z + offset, top - 0.03)
    yield from arm.move(point(x, y, grip), euler, speed=0.7, tolerance=0.004, limit=40)
    if stacked:
        yield from arm.move(point(x, y, grip - 0.0005), euler, tolerance=0.001, limit=12)
        yield from arm.wait(2)
    yield from arm.close(press=0.0001 if stacked else 0.0)


def _grasp_in_cabinet(arm: Arm, name: str) -> Motion:
    view = arm.view
    block = view.blocks[name]
    x, y, z = block.position
    yaw = min((block.yaw + k * (np.pi / 2 if block.square else np.pi) for k in range(-4, 5)),
              key=lambda a: abs(a - FRONT))  # fmt: skip
    yaw = FRONT + float(np.clip(yaw - FRONT, -0.6, 0.6))
    euler = pose(yaw, CABINET_PITCH)
    tool = tool_axis(euler)
    goal = point(x, y, z - 0.003)
    arm.grip = 1.0
    yield from retreat(arm)
    yield from arm.move(point(x, -0.08, 0.585), euler, tolerance=0.02)
    yield from arm.move(goal - 0.06 * tool, euler, tolerance=0.006, limit=40)
    yield from arm.move(goal, euler, speed=0.6, tolerance=0.004, limit=30)
    yield from arm.close()


def lift(arm: Arm, height: float = 0.12) -> Motion:
    """Straight up with what is held."""
    # Out of the cabinet forwards, too: a hand that touches its front spoils the next task's start.
    out = -0.6 * height if arm.view.tcp[1] > 0.03 else 0.0
    goal = arm.view.tcp + point(0, out, height)
    yield from arm.move(goal, speed=0.6, tolerance=0.01, limit=40)
