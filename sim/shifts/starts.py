"""Start states under the axes `start` and `layout`."""

from __future__ import annotations

from math import atan2, cos, hypot, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.sim.packs import SceneSpec
from calvin_eval.sim.shifts.variant import Variant, both_ways

FloatArray = NDArray[np.float64]

_TRIES: Final = 1000

# The arm's frames in Craig's convention: along x and about x to the next joint, then along z; the
# hand is turned by -45 degrees, the tcp lies 0.14 m before it. Franka's data sheet, and the URDF's
# `tcp` link.
_ALONG_X: Final = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
_ABOUT_X: Final = (0, -1, 1, 1, -1, 1, 1)  # quarter turns
_ALONG_Z: Final = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
_TCP: Final = 0.107 + 0.14
_HAND_TURN: Final = -np.pi / 4

_CLEAR: Final = ((-0.3, 0.35), (-0.36, -0.14), (0.52, 0.72))
"""Where a start has the tcp, in metres along x, y and z: above the table, before the cabinet."""

_TABLE_EDGE: Final = ((-0.38, 0.38), (-0.135, -0.045))
"""Where the centre of a block on the table may lie: 0.045 m, its reach, from front and cabinet."""
_FROM_BUTTON: Final = 0.095  # metres between the centres of a block and of the button
_APART: Final = 0.1  # metres between the centres of two blocks: they cannot touch
_FRONT: Final = 0.02  # y in metres that divides table and cabinet


def moved_arm(variant: Variant, robot_obs: FloatArray, scene: SceneSpec) -> FloatArray:
    """The (15,) robot state with every joint turned, and the tcp pose that follows.

    Raises:
        UsageError: no draw has the hand above the table.
    """
    stream, span = variant.stream("start", "joint"), variant.span("start", "joint")
    for _ in range(_TRIES):
        moved = np.array(robot_obs)
        moved[7:14] += both_ways(stream.uniform(-1, 1, 7)) * span
        moved[:6] = tcp_pose(moved[7:14], scene)
        if all(low <= at <= high for at, (low, high) in zip(moved[:3], _CLEAR, strict=True)):
            return moved
    raise UsageError(
        f"chain {variant.chain}: no shifted pose has the hand above the table; expected a chain "
        "that starts there"
    )


def tcp_pose(joints: FloatArray, scene: SceneSpec) -> FloatArray:
    """Position in metres and euler angles xyz in radians (6,) of the tcp in the world.

    Rounded to a nanometre and a nanoradian: the last bits of sines differ between C libraries.
    """
    pose = _turn_z(scene.robot_base_orientation[2])
    pose[:3, 3] = scene.robot_base_position
    for joint, along_x, about_x, along_z in zip(
        joints.tolist(), _ALONG_X, _ABOUT_X, _ALONG_Z, strict=True
    ):
        step = np.eye(4)
        step[0, 3] = along_x
        if about_x:
            step[1:3, 1:3] = ((0, -about_x), (about_x, 0))
        turn = _turn_z(joint)
        turn[2, 3] = along_z
        pose = pose @ step @ turn
    end = _turn_z(_HAND_TURN)
    end[2, 3] = _TCP
    pose = pose @ end
    roll, yaw = atan2(pose[2, 1], pose[2, 2]), atan2(pose[1, 0], pose[0, 0])
    pitch = atan2(-pose[2, 0], hypot(pose[2, 1], pose[2, 2]))
    return np.round(np.array([*pose[:3, 3], roll, pitch, yaw]), 9)


def _turn_z(angle: float) -> FloatArray:
    turn = np.eye(4)
    turn[:2, :2] = ((cos(angle), -sin(angle)), (sin(angle), cos(angle)))
    return turn


def moved_layout(variant: Variant, scene_obs: FloatArray, button: float) -> FloatArray:
    """The (24,) scene state with blocks and doors elsewhere, each block on its own surface.

    Args:
        variant: of the chain.
        scene_obs: a start state in the scene that the chain is run in.
        button: x of the button in metres.

    Raises:
        UsageError: no draw keeps the blocks apart and clear of the button.
    """
    moved = np.array(scene_obs)
    for index, name in enumerate(("slide", "drawer")):
        inwards = variant.one_way("layout", name)[0]
        moved[index] += -inwards if moved[index] > 0 else inwards
    blocks = moved[6:].reshape(3, 6)
    blocks[:, 5] += variant.either_way("layout", "yaw", 3)
    places = blocks[:, :2].copy()
    on_table = places[:, 1] < _FRONT
    reach = np.where(
        on_table[:, None],
        variant.span("layout", "table"),
        (variant.span("layout", "slot"), 0.0),
    )
    stream = variant.stream("layout", "table")
    for _ in range(_TRIES):
        blocks[:, :2] = places + both_ways(stream.uniform(-1, 1, (3, 2))) * reach
        if _possible(blocks[:, :2], on_table, button):
            return moved
    raise UsageError(
        f"chain {variant.chain}: no shifted layout keeps its blocks apart; expected one that "
        "starts with its blocks on the table and in the cabinet"
    )


def _possible(places: FloatArray, on_table: NDArray[np.bool_], button: float) -> bool:
    for (x, y), table in zip(places.tolist(), on_table.tolist(), strict=True):
        inside = all(low <= v <= high for v, (low, high) in zip((x, y), _TABLE_EDGE, strict=True))
        if table and (not inside or hypot(x - button, y + 0.12) < _FROM_BUTTON):
            return False
    gaps = [hypot(*(places[i] - places[j])) for i in range(3) for j in range(i)]
    return min(gaps) >= _APART
