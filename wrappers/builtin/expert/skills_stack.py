"""Putting blocks onto each other and taking them apart."""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_grasp import YAW_RANGE
from calvin_eval.wrappers.builtin.expert.skills_place import level_pitch, lower
from calvin_eval.wrappers.builtin.expert.skills_reach import (
    TRAVEL_Z,
    place_of,
    point,
    pose,
    retreat,
    travel,
)
from calvin_eval.wrappers.builtin.expert.view import Block


def stack(arm: Arm, name: str) -> Motion:
    """Put the held block onto another one."""
    view = arm.view
    held = view.blocks[name]
    bases = [b for b in view.blocks.values() if b.name != name]
    order = {"table": 0, "drawer": 1, "cabinet": 2}
    base = min(bases, key=lambda b: (order[place_of(view, b)], bool(view.neighbours(b)), b.name))
    x, y = base.position[:2]
    pitch = level_pitch(arm, name)
    euler = pose(_aligned(held, base, view.euler[2], pitch), pitch)
    arm.bias = 0.12  # a tilted hand often stays behind its target
    yield from travel(arm, point(x, y, TRAVEL_Z), euler, tolerance=0.008)
    shift = view.blocks[name].position[:2] - view.tcp[:2]
    yield from arm.move(point(x - shift[0], y - shift[1], 0.56), euler, tolerance=0.005, limit=40)
    base = view.blocks[base.name]
    yield from lower(arm, name, base.position[2] + base.height / 2, 0.003, euler)
    yield from arm.open(8)
    yield from retreat(arm)


def _aligned(held: Block, base: Block, yaw: float, pitch: float) -> float:
    """The hand's yaw at which the faces of both blocks are parallel."""
    low, high = YAW_RANGE
    candidates = [yaw + base.yaw - held.yaw + k * np.pi / 2 for k in range(-8, 9)]
    fit = [c for c in candidates if low <= c <= high]
    near = base.position[1] > -0.09

    def cost(c: float) -> float:
        # Near the cabinet the wide hand must not point at it; elsewhere a hand across the table
        # leaves room to slide the block off sideways later. A tilted one leans to the robot.
        far = 20.0 * max(0.0, c - 1.6, -0.1 - c) if pitch < -0.3 else 0.0
        return 0.3 * abs(c - yaw) + 4.0 * float(abs(np.cos(c) if near else np.sin(c))) + far

    return float(min(fit or candidates, key=cost))
