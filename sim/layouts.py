"""Start states of the chains in scenes other than D.

The benchmark's start states are made for scene D: the blocks in the order red, blue, pink, the
cabinet's slots and the door's end where D has them. Upstream resets any scene to these numbers as
they are. Elsewhere they mean something else: scenes A and C list their blocks in another order, so
that a chain which lifts the pink block from the table may find it in the cabinet (at most 3.49 and
3.43 subtasks per chain can succeed); in B and C the left slot lies inside the cabinet's solid
side; in B a table slot lies on the button's ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calvin_eval.sim.initial_states import FloatArray
from calvin_eval.sim.packs import SceneSpec
from calvin_eval.sim.symbolic import BLOCKS


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where scene D's places are in another scene, in metres.

    Attributes:
        slots: what is added to the x of the cabinet's slots.
        right: x of the table position that is at 0.23 in scene D.
        door: the sliding door's joint when it stands at the left.
        button: x of the button.
    """

    slots: float = 0.0
    right: float = 0.23
    door: float = 0.28
    button: float = -0.12


LAYOUTS: Final[Mapping[str, Layout]] = {
    "A": Layout(button=-0.28),
    "B": Layout(slots=0.18, right=-0.13, door=0.304, button=0.28),
    "C": Layout(slots=0.18, door=0.24),
    "D": Layout(),
}


def fit_to_scene(scene_obs: FloatArray, scene: SceneSpec) -> FloatArray:
    """Returns the start state that means in a scene what the given one means in scene D.

    Args:
        scene_obs: (24,) a start state of scene D.
        scene: A, B, C or D, as a pack has it.

    Returns:
        The array itself where nothing changes (scene D), else a new one.
    """
    if is_like_d(scene):
        return scene_obs
    layout = LAYOUTS[scene.name]
    fitted = np.array(scene_obs)
    if fitted[0] > 0:
        fitted[0] = layout.door
    poses = dict(zip(BLOCKS, fitted[6:].reshape(3, 6).copy(), strict=True))
    for pose in poses.values():
        if pose[1] > 0:
            pose[0] += layout.slots
        elif pose[0] > 0.14:
            pose[0] = layout.right
    fitted[6:] = np.concatenate([poses[name] for name in _order(scene)])
    return fitted


def is_like_d(scene: SceneSpec) -> bool:
    """Says whether scene D's start states mean the same in this scene."""
    return LAYOUTS[scene.name] == LAYOUTS["D"] and _order(scene) == list(BLOCKS)


def _order(scene: SceneSpec) -> list[str]:
    """The scene's blocks as the symbolic states name them, in the order of `scene_obs`."""
    return [f"{name.removeprefix('block_')}_block" for name, _ in scene.blocks]
