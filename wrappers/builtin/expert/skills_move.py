"""Pushing and turning blocks on the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import BUTTON_Y, TABLE_TOP
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_grasp import grasp
from calvin_eval.wrappers.builtin.expert.skills_place import lower, release
from calvin_eval.wrappers.builtin.expert.skills_reach import floor_below, point, pose
from calvin_eval.wrappers.builtin.expert.view import Array, View


def spot(
    view: View, candidates: Sequence[tuple[float, float]], ignore: str, home: tuple[float, float]
) -> tuple[float, float]:
    """The candidate with the most room, the nearer to `home` the better."""
    others = [b.position[:2] for b in view.blocks.values() if b.name != ignore]

    def score(place: tuple[float, float]) -> float:
        room = min((float(np.hypot(*(np.array(place) - o))) for o in others), default=1.0)
        button = float(np.hypot(place[0] - view.table.button, place[1] - BUTTON_Y))
        near = float(np.hypot(place[0] - home[0], place[1] - home[1]))
        far = max(0.0, abs(place[0]) - 0.28)  # the arm is not at its best there
        return min(room, 0.13) + 3.0 * min(button, 0.095) - 0.15 * near - far

    return max(candidates, key=score)


def set_down(
    arm: Arm, name: str, x: float, y: float, euler: Array, floor: float = TABLE_TOP
) -> Motion:
    """Carry the held block at the present height, let it down and let go."""
    view = arm.view
    yield from arm.move(point(x, y, view.tcp[2]), euler, tolerance=0.006, limit=60)
    yield from lower(arm, name, floor, 0.004, euler)
    yield from release(arm)


def push(arm: Arm, name: str, side: int) -> Motion:
    """Move a block by at least 0.1 to the left (-1) or right (1) and leave it there."""
    view = arm.view
    block = view.blocks[name]
    x, y = block.position[:2]
    xs = [x + side * d for d in np.linspace(0.112, 0.30, 14)]
    ys = np.linspace(-0.145, -0.075, 8)  # the door's handle passes behind
    inside = [(float(a), float(b)) for a in xs for b in ys if abs(a) < 0.37]
    goal = spot(view, inside or [(xs[0], float(y))], name, (xs[0], float(y)))
    yield from grasp(arm, name)
    yield from arm.move(view.tcp + point(0, 0, 0.05), speed=0.8, tolerance=0.01, limit=20)
    yield from set_down(arm, name, *goal, pose(view.euler[2]))


def rotate(arm: Arm, name: str, side: int) -> Motion:
    """Turn a block by at least 60 degrees to the left (1) or right (-1)."""
    view = arm.view
    turn = side * 1.25
    held = view.held
    if held is None or held.name != name:
        yield from grasp(arm, name, turn)
        yield from arm.move(view.tcp + point(0, 0, 0.022), speed=0.6, tolerance=0.008, limit=20)
        x, y, _ = view.tcp
        euler = pose(view.euler[2] + turn)
        yield from arm.move(view.tcp.copy(), euler, tolerance=0.006, limit=60)
        yield from set_down(arm, name, x, y, euler)
    else:  # as it is held: a tilted block keeps its tilt, since only the turn may differ
        euler = pose(view.euler[2] + turn, view.euler[1])
        yield from arm.move(view.tcp + point(0, 0, 0.015), speed=0.6, tolerance=0.005, limit=20)
        yield from arm.move(view.tcp.copy(), euler, tolerance=0.006, limit=60)
        yield from lower(arm, name, floor_below(view, view.blocks[name]), -0.002, euler)
        yield from arm.wait(3)
