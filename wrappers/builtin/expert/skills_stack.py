"""Putting blocks onto each other and taking them apart."""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import BUTTON_Y
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_grasp import YAW_RANGE, grasp
from calvin_eval.wrappers.builtin.expert.skills_place import level_pitch, lower, release
from calvin_eval.wrappers.builtin.expert.skills_reach import (
    TRAVEL_Z,
    place_of,
    point,
    pose,
    retreat,
    travel,
)
from calvin_eval.wrappers.builtin.expert.view import Array, Block, View


def stack(arm: Arm, name: str) -> Motion:
    """Put the held block onto another one."""
    view = arm.view
    held = view.blocks[name]
    bases = [b for b in view.blocks.values() if b.name != name]
    order = {"table": 0, "drawer": 1, "cabinet": 2}
    base = min(bases, key=lambda b: (order[place_of(view, b)], bool(view.neighbours(b)), b.name))
    x, y = base.position[:2]
    yaw = _aligned(held, base, view.euler[2])
    euler = pose(yaw, level_pitch(arm, name))
    yield from travel(arm, point(x, y, TRAVEL_Z), euler, tolerance=0.008)
    shift = view.blocks[name].position[:2] - view.tcp[:2]
    yield from arm.move(point(x - shift[0], y - shift[1], 0.56), euler, tolerance=0.005, limit=40)
    base = view.blocks[base.name]
    yield from lower(arm, name, base.position[2] + base.height / 2, 0.003, euler)
    yield from arm.open(8)
    yield from retreat(arm)


def _aligned(held: Block, base: Block, yaw: float) -> float:
    """The hand's yaw at which the faces of both blocks are parallel."""
    low, high = YAW_RANGE
    candidates = [yaw + base.yaw - held.yaw + k * np.pi / 2 for k in range(-8, 9)]
    fit = [c for c in candidates if low <= c <= high]
    near = base.position[1] > -0.09

    def cost(c: float) -> float:
        # Near the cabinet the wide hand must not point at it; elsewhere a hand across the table
        # leaves room to slide the block off sideways later.
        return 0.3 * abs(c - yaw) + 4.0 * abs(np.cos(c) if near else np.sin(c))

    return float(min(fit or candidates, key=cost))


def unstack(arm: Arm) -> Motion:
    """Slide the upper block off the lower one and set it down beside it."""
    view = arm.view
    top = max(view.blocks.values(), key=lambda b: (bool(view.neighbours(b)), b.position[2]))
    bottom = min(view.neighbours(top) or [top], key=lambda b: b.position[2])
    yield from grasp(arm, top.name)
    top, bottom = view.blocks[top.name], view.blocks[bottom.name]
    away = _free_direction(view, top, bottom)
    reach = (top.length + bottom.length) / 2
    yield from arm.move(view.tcp + point(*(away * reach), 0.0), speed=0.5, limit=60)
    yield from arm.move(view.tcp - point(0, 0, 0.04), speed=0.5, limit=30)
    yield from arm.move(view.tcp + point(*(away * 0.06), 0.0), speed=0.5, limit=30)
    yield from release(arm)


def _free_direction(view: View, top: Block, bottom: Block) -> Array:
    """A level direction beside the fingers with room for the upper block."""
    yaw = view.euler[2]
    best, most = np.array([1.0, 0.0]), -np.inf
    for sign in (1, -1):
        way = sign * np.array([np.cos(yaw), np.sin(yaw)])
        end = bottom.position[:2] + 0.1 * way
        others = [float(np.hypot(*(end - b.position[:2]))) for b in view.blocks.values()
                  if b.name not in (top.name, bottom.name)]  # fmt: skip
        room = min([0.12, *others]) - 2 * max(0.0, end[1] + 0.04) - 2 * max(0.0, -0.15 - end[1])
        room -= max(0.0, abs(end[0]) - 0.36)
        room -= max(0.0, 0.09 - np.hypot(end[0] - view.table.button, end[1] - BUTTON_Y))
        if room > most:
            best, most = way, room
    return best
