"""Putting down what is held."""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import (
    DRAWER_FLOOR,
    PLANK_TOP,
)
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_reach import (
    FRONT,
    TRAVEL_Y,
    TRAVEL_Z,
    floor_below,
    place_of,
    point,
    pose,
    retreat,
    travel,
)
from calvin_eval.wrappers.builtin.expert.view import Array, Block


def begin(arm: Arm) -> Motion:
    """Let go of what an earlier subtask left in the hand, and know where the target is."""
    view = arm.view
    held = view.held
    if held is not None and place_of(view, held) == "table":
        yield from arm.sync()
        yield from _put_aside(arm, held.name)
    elif held is not None and not held.surfaces:
        yield from arm.sync()
        yield from lower(arm, held.name, floor_below(view, held), 0.004)
    arm.grip = 1.0
    yield from arm.sync(4 if view.width < 0.075 else 2)


def _put_aside(arm: Arm, name: str) -> Motion:
    """Put the held block down level, away from one that it would fall onto or lean on."""
    view = arm.view
    held = view.blocks[name]
    near = min((b for b in view.blocks.values() if b.name != name),
               key=lambda b: float(np.hypot(*(b.position - held.position)[:2])))  # fmt: skip
    apart = (held.position - near.position)[:2]
    distance = float(np.hypot(*apart))
    shift = np.zeros(3)
    if distance < 0.1:
        shift[:2] = apart * (0.1 / max(distance, 1e-6) - 1)
    goal = view.tcp + shift + point(0, 0, 0.02)
    goal[:2] = np.clip(goal[:2], (-0.36, -0.15), (0.36, -0.07))
    yield from arm.move(goal, pose(view.euler[2]), speed=0.6, tolerance=0.008, limit=40)
    yield from lower(arm, name, floor_below(view, view.blocks[name]), 0.004)


def level_pitch(arm: Arm, name: str) -> float:
    """The pitch at which the held block lies level."""
    view = arm.view
    block = view.blocks[name]
    up = block.axes[:, block.up] * np.sign(block.axes[2, block.up])
    forward = view.tool.copy()
    forward[2] = 0
    yaw = view.euler[2]
    # The fingers' axis is level; a turn about it tilts the block's upward axis this way.
    across = point(np.cos(yaw), np.sin(yaw), 0)
    tilt = float(np.arctan2(up @ across, up[2]))
    return float(np.clip(view.euler[1] - tilt, -0.85, 0.3))


def lower(arm: Arm, name: str, floor: float, gap: float, euler: Array | None = None) -> Motion:
    """Let the held block down until its underside is `gap` above `floor`, where the hand is."""
    view = arm.view
    for _ in range(2):
        block = view.blocks[name]
        bottom = block.position[2] - half_extent(block)
        goal = view.tcp - point(0, 0, bottom - floor - gap)
        yield from arm.move(goal, euler, speed=0.7, tolerance=0.003, limit=40)


def half_extent(block: Block) -> float:
    """Half of a block's vertical extent, tilted as it is."""
    return float(np.abs(block.axes[2]) @ block.size / 2)


def release(arm: Arm) -> Motion:
    """Open the hand and leave."""
    yield from arm.open(4)
    yield from retreat(arm)


def place_in_cabinet(arm: Arm, name: str) -> Motion:
    """Put the held block behind the door's edge, where there is room."""
    view = arm.view
    low, high = view.table.opening
    left, right = view.door
    spans = [(low, min(high, left)), (max(low, right), high)]
    span = max(spans, key=lambda s: s[1] - s[0])
    others = [b.position[0] for b in view.blocks.values()
              if b.name != name and place_of(view, b) == "cabinet"]  # fmt: skip
    xs = (
        np.linspace(span[0] + 0.05, span[1] - 0.05, 25)
        if span[1] - span[0] > 0.1
        else [np.mean(span)]
    )

    def score(x: float) -> float:
        room = min((abs(x - o) for o in others), default=1.0)
        edge = min(x - span[0], span[1] - x)
        return min(room, 0.13) + 0.8 * min(edge, 0.11)

    x = float(max(xs, key=score))
    pitch = level_pitch(arm, name)
    pitch = float(np.clip(pitch, -0.8, -0.35))
    euler = pose(FRONT, pitch)
    yield from retreat(arm)
    yield from arm.move(point(x, TRAVEL_Y, TRAVEL_Z), euler, tolerance=0.02)
    yield from arm.move(point(x, 0.062, 0.575), euler, tolerance=0.012)
    yield from lower(arm, name, PLANK_TOP, 0.002, euler)
    yield from release(arm)


def place_in_drawer(arm: Arm, name: str) -> Motion:
    """Put the held block into the open drawer."""
    view = arm.view
    y = -0.1564 - view.drawer + 0.06
    others = [b.position[0] for b in view.blocks.values()
              if b.name != name and place_of(view, b) == "drawer"]  # fmt: skip
    xs = np.linspace(view.table.drawer - 0.10, view.table.drawer + 0.10, 21)
    x = float(
        max(
            xs,
            key=lambda x: (
                min([0.12, *(abs(x - o) for o in others)]) - 0.1 * abs(x - view.table.drawer + 0.03)
            ),
        )
    )
    euler = pose(FRONT, level_pitch(arm, name))
    yield from travel(arm, point(x, y, 0.57), euler, tolerance=0.012)
    yield from lower(arm, name, DRAWER_FLOOR, 0.003, euler)
    yield from release(arm)
