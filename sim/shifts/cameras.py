"""The axis `camera`: both cameras elsewhere, turned, and of another field of view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.packs import CameraSpec
from calvin_eval.sim.shifts.variant import Variant


@dataclass(frozen=True, kw_only=True)
class Mount:
    """How a camera is fixed to its link.

    Attributes:
        offset: (3,) metres in the link's frame.
        turn: (3, 3) rotation in the link's frame.
    """

    offset: NDArray[np.float64]
    turn: NDArray[np.float64]


UPRIGHT: Final = Mount(offset=np.zeros(3), turn=np.eye(3))
"""The benchmark's own."""


def moved_camera(variant: Variant | None, spec: CameraSpec) -> tuple[CameraSpec, Mount]:
    """A camera as a variant has it, and how it is fixed to its link, if it is to one.

    Args:
        variant: of the chain; None leaves the camera as it is.
        spec: the pack's, or a policy's own with another size.
    """
    if variant is None or not variant.level("camera"):
        return spec, UPRIGHT
    wider = 1 + float(variant.either_way("camera", "fov")[0])
    spec = replace(spec, fov=spec.fov * wider)
    if spec.look_from is None or spec.look_at is None or spec.up is None:
        offset = variant.either_way("camera", "gripper_place", 3)
        return spec, Mount(offset=offset, turn=_turned(variant.either_way("camera", "turn", 3)))
    eye, aim = np.array(spec.look_from), np.array(spec.look_at)
    eye = eye + variant.either_way("camera", "static_place", 3)
    aim = aim + variant.either_way("camera", "static_aim", 3)
    up = _about((aim - eye) / np.linalg.norm(aim - eye), _roll(variant)) @ np.array(spec.up)
    return replace(
        spec, look_from=tuple(eye.tolist()), look_at=tuple(aim.tolist()), up=tuple(up.tolist())
    ), UPRIGHT


def _roll(variant: Variant) -> float:
    return float(variant.either_way("camera", "turn", 4)[3])


def _turned(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns about x, y and z, one after the other."""
    turn = np.eye(3)
    for axis, angle in zip(np.eye(3), angles.tolist(), strict=True):
        turn = _about(axis, angle) @ turn
    return turn


def _about(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    found: NDArray[np.float64] = (
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )
    return found
