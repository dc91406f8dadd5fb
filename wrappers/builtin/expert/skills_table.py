"""Skills on what is part of the table: slide, pull, push, press, flip."""

from __future__ import annotations

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import BUTTON_Y
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_reach import FRONT, point, pose, retreat, travel


def slide(arm: Arm, goal: float) -> Motion:
    """Slide the cabinet's door until its joint is at `goal`."""
    view = arm.view
    arm.grip = 1.0
    x = view.handle
    yield from retreat(arm)
    yield from arm.move(point(x, -0.10, 0.64), pose(), tolerance=0.02)
    yield from arm.move(point(x, -0.005, 0.64), pose(), tolerance=0.012, limit=40)
    yield from arm.move(point(x, -0.005, 0.545), pose(), speed=0.7, tolerance=0.008, limit=40)
    end = x - (goal - view.slide)
    side = float(np.sign(end - x))
    yield from arm.move(
        point(end + 0.02 * side, -0.005, 0.545), pose(), speed=0.7, tolerance=0.02, limit=60
    )
    yield from retreat(arm)


def open_drawer(arm: Arm) -> Motion:
    """Hook the handle from behind and pull."""
    view = arm.view
    x, euler = view.table.drawer, pose(FRONT, -0.25)
    yield from retreat(arm)
    arm.grip = -1.0
    y = -0.211 - view.drawer
    yield from travel(arm, point(x, y - 0.04, 0.50), euler)
    yield from arm.move(point(x, y, 0.42), euler, tolerance=0.01, limit=40)
    yield from arm.move(point(x, y, 0.368), euler, speed=0.6, tolerance=0.004, limit=40)
    yield from arm.move(point(x, -0.211 - 0.235, 0.368), euler, speed=0.6, tolerance=0.01, limit=60)
    yield from retreat(arm)


def close_drawer(arm: Arm) -> Motion:
    """Push the handle from the front."""
    view = arm.view
    x = view.table.drawer
    yield from retreat(arm)
    arm.grip = -1.0
    y = -0.33 - view.drawer
    yield from travel(arm, point(x, y, 0.50), pose())
    yield from arm.move(point(x, y, 0.368), pose(), tolerance=0.012, limit=40)
    yield from arm.move(point(x, -0.27, 0.368), pose(), speed=0.6, tolerance=0.01, limit=70)
    yield from retreat(arm)


def press(arm: Arm) -> Motion:
    """Press the button once."""
    x = arm.view.table.button
    if arm.grip > 0 or np.hypot(*(arm.view.tcp[:2] - [x, BUTTON_Y])) > 0.03:
        yield from retreat(arm)
        arm.grip = -1.0
        yield from travel(arm, point(x, BUTTON_Y, 0.56), pose())
    yield from arm.move(point(x, BUTTON_Y, 0.53), pose(), tolerance=0.012, limit=40)
    yield from arm.move(point(x, BUTTON_Y, 0.478), pose(), speed=0.6, tolerance=0.006, limit=25)
    yield from arm.move(point(x, BUTTON_Y, 0.53), pose(), tolerance=0.012, limit=30)


def flip(arm: Arm, on: bool) -> Motion:
    """Push the lever up (on) or down (off) its slope."""
    view = arm.view
    x, euler = view.table.switch, pose(FRONT, -1.05)
    slope = point(0, 0.5, 0.866)
    yield from retreat(arm)
    arm.grip = -1.0
    if on:
        yield from arm.move(point(x, -0.14, 0.56), euler, tolerance=0.02)
        yield from arm.move(point(x, -0.09, 0.49), euler, tolerance=0.015, limit=40)
        start = point(x, 0.004, 0.490)
        yield from arm.move(start, euler, speed=0.6, tolerance=0.008, limit=40)
        yield from arm.move(start + 0.11 * slope, euler, speed=0.6, tolerance=0.01, limit=40)
    else:
        yield from arm.move(point(x, -0.125, 0.61), euler, tolerance=0.02)
        yield from arm.move(point(x, -0.02, 0.68), euler, tolerance=0.02, limit=40)
        yield from arm.move(point(x, 0.075, 0.655), euler, tolerance=0.012, limit=40)
        yield from arm.move(
            point(x, 0.075, 0.655) - 0.14 * slope, euler, speed=0.6, tolerance=0.01, limit=40
        )
    yield from retreat(arm)
