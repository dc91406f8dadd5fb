"""Reaching: how the hand gets about above the table.

Every skill is a generator of actions. Angles follow the simulator: roll pi and pitch 0 point the
fingers down, and at a yaw of pi/2 they open along x.
"""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import (
    DRAWER_FLOOR,
    PLANK_TOP,
    TABLE_FRONT,
    TABLE_TOP,
)
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.view import Array, Block, View

TRAVEL_Z, TRAVEL_Y = 0.60, -0.10
FRONT = np.pi / 2


def pose(yaw: float = FRONT, pitch: float = 0.0) -> Array:
    """Orientation of the hand."""
    return np.array([np.pi, pitch, yaw])


def point(x: float, y: float, z: float) -> Array:
    """A position."""
    return np.array([x, y, z], float)


def retreat(arm: Arm) -> Motion:
    """Leave wherever the hand is, the way it came, up to the travel height."""
    view = arm.view
    back = -view.tool
    start = view.tcp.copy()
    if start[2] < TRAVEL_Z - 0.02 and abs(back[1]) > 0.1:
        room = [0.16]
        if back[1] < 0:
            room.append(max(0.0, (start[1] - TRAVEL_Y) / -back[1]))
        if back[2] > 0.05:
            room.append(max(0.0, (TRAVEL_Z - start[2]) / back[2]))
        yield from arm.move(start + min(room) * back, tolerance=0.02, limit=40)
    if view.tcp[2] < TRAVEL_Z - 0.02:
        yield from arm.move(point(view.tcp[0], view.tcp[1], TRAVEL_Z), tolerance=0.02, limit=60)
    if view.tcp[1] > TRAVEL_Y + 0.03:
        yield from arm.move(point(view.tcp[0], TRAVEL_Y, TRAVEL_Z + 0.0), tolerance=0.03, limit=40)


def travel(arm: Arm, goal: Array, euler: Array, tolerance: float = 0.02) -> Motion:
    """Go through free space to a point at about the travel height."""
    yield from retreat(arm)
    if goal[1] > TRAVEL_Y + 0.03:
        yield from arm.move(point(goal[0], TRAVEL_Y, max(goal[2], TRAVEL_Z)), euler, tolerance=0.02)
    yield from arm.move(goal, euler, tolerance=tolerance)


def floor_below(view: View, block: Block) -> float:
    """Height of what is under a block."""
    x, y, z = block.position
    under = [b.position[2] + b.height / 2 for b in view.blocks.values()
             if b.name != block.name and np.hypot(*(b.position[:2] - [x, y])) < 0.05
             and b.position[2] < z]  # fmt: skip
    floor = DRAWER_FLOOR if y < TABLE_FRONT else PLANK_TOP if y > 0.03 else TABLE_TOP
    return max([floor, *map(float, under)])


def place_of(view: View, block: Block) -> str:
    """`table`, `cabinet` or `drawer`."""
    if block.position[2] < 0.43:
        return "drawer"
    return "cabinet" if block.position[1] > 0.03 else "table"


def tool_axis(euler: Array) -> Array:
    """(3,) where the fingers point at an orientation."""
    from scipy.spatial.transform import Rotation

    axis: Array = Rotation.from_euler("xyz", euler).as_matrix()[:, 2]
    return axis
