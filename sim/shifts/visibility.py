"""How much of a task's target can be seen: the pixels of each camera that show it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.env import PlayTableEnv

FINE: Final = DrawOptions(depth_bits=24)
"""Depth that tells a block from the table below it, for the environment that is measured in."""
ENOUGH: Final = 20
"""Pixels of one camera that a target has at least: a block's side seen by the static one has 60."""

_PARTS: Final = (
    ("drawer", "drawer_link"), ("move_slider", "slide_link"), ("lightbulb", "switch_link"),
    ("led", "button_link"),
)  # fmt: skip
"""What of a task's name tells the part of the table that it is about."""


def target_of(task: str, env: PlayTableEnv) -> tuple[int, int | None] | None:
    """Body and link (None: all of it) that a task is about; None where it names no one thing.

    Args:
        task: its name.
        env: has been reset.
    """
    for name, body in env.world.blocks.items():
        if f"{name.removeprefix('block_')}_block" in task:
            return body, None
    for part, link in _PARTS:
        if part in task and not task.startswith(("place", "push")):
            return env.world.table, env.world.links[link]
    return None


def pixels(env: PlayTableEnv, target: tuple[int, int | None]) -> dict[str, int]:
    """By camera, how many pixels show a body or one of its links now.

    Args:
        env: drawn by `fast` with the options `FINE`, and reset.
        target: body and link, see `target_of`.
    """
    look, drawer, cameras = env.drawn()
    state = look.scene.state(env.world)
    body, link = target
    hidden = np.array([s.body == body and link in (None, s.link) for s in look.scene.shapes])
    colours = state.colours.copy()
    colours[hidden, 3] = 0
    views = [(c.view(), c.projection, c.spec.width, c.spec.height) for c in cameras]
    whole = drawer.draw(state, views)
    without = drawer.draw(replace(state, colours=colours), views)
    return {
        camera.spec.name: int(np.count_nonzero(one[1] != other[1]))
        for camera, one, other in zip(cameras, whole, without, strict=True)
    }
