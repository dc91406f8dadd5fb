"""The forms in which a CALVIN environment takes an action, checked before anything moves.

Rules: docs/protocol.md#actions, read off both revisions of calvin_env. A raw 7-vector is relative;
a tuple of three is an absolute pose; a dict names its type. Upstream takes dicts at its head
revision only; they mean the same here under both revisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import InvalidActionError

Kind = Literal["cartesian_rel", "cartesian_abs", "joint_rel", "joint_abs"]
KINDS: tuple[Kind, ...] = ("cartesian_rel", "cartesian_abs", "joint_rel", "joint_abs")

_FORMS = (
    "a relative 7-vector (position, euler, gripper), an absolute tuple (position 3, "
    "euler 3 or quaternion xyzw 4, gripper), or a dict with 'type' and 'action'"
)


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """One valid action.

    Attributes:
        kind: how `position` and `orientation`, or `joints`, are meant.
        gripper: -1 (close) or 1 (open).
        position: (3,) metres, or x50 units when relative; absent for joint actions.
        orientation: (3,) euler xyz radians, or x20 units when relative, or (4,) quaternion xyzw.
        joints: (7,) radians for joint actions.
    """

    kind: Kind
    gripper: float
    position: NDArray[Any] | None = None
    orientation: NDArray[Any] | None = None
    joints: NDArray[Any] | None = None


def parse_action(action: Any) -> ParsedAction:
    """Recognise and check an action; the caller's arrays are neither kept nor changed.

    The caller's floating-point type is kept: upstream scales a float32 action in float32, and
    that shows in the last bits.

    Raises:
        InvalidActionError: the action has none of the accepted forms, holds NaN or infinity, or
            its gripper value is neither -1 nor 1.
    """
    if isinstance(action, Mapping):
        return _parse_dict(action)
    if isinstance(action, tuple | list) and len(action) == 3:
        return _parse_pose(action)
    vector = _vector(action, "action")
    if vector.shape != (7,):
        raise InvalidActionError(f"expected {_FORMS}; found an array of shape {vector.shape}")
    return _split_cartesian(vector, "cartesian_rel")


def _parse_dict(action: Mapping[str, Any]) -> ParsedAction:
    kind, value = action.get("type"), action.get("action")
    if kind not in KINDS or value is None:
        raise InvalidActionError(
            f"expected a dict with 'type' (one of {', '.join(KINDS)}) and 'action'; "
            f"found the keys {sorted(map(str, action))} and type {kind!r}"
        )
    if kind == "cartesian_abs" and isinstance(value, tuple | list) and len(value) == 3:
        return _parse_pose(value)
    vector = _vector(value, kind)
    sizes = {"cartesian_rel": (7,), "cartesian_abs": (7, 8)}.get(kind, (8,))
    if vector.ndim != 1 or vector.size not in sizes:
        wanted = " or ".join(map(str, sizes))
        raise InvalidActionError(
            f"expected {wanted} numbers in a {kind} action; found shape {vector.shape}"
        )
    if kind in ("joint_rel", "joint_abs"):
        return ParsedAction(kind=kind, gripper=_gripper(vector[-1]), joints=vector[:7])
    return _split_cartesian(vector, kind)


def _parse_pose(action: Sequence[Any]) -> ParsedAction:
    position = _vector(action[0], "position")
    orientation = _vector(action[1], "orientation")
    gripper = _vector(action[2], "gripper")
    if position.shape != (3,) or orientation.shape not in ((3,), (4,)) or gripper.size != 1:
        raise InvalidActionError(
            f"expected {_FORMS}; found a tuple with shapes {position.shape}, "
            f"{orientation.shape}, {gripper.shape}"
        )
    return ParsedAction(
        kind="cartesian_abs",
        gripper=_gripper(gripper.reshape(())),
        position=position,
        orientation=orientation,
    )


def _split_cartesian(vector: NDArray[Any], kind: Kind) -> ParsedAction:
    return ParsedAction(
        kind=kind,
        gripper=_gripper(vector[-1]),
        position=vector[:3],
        orientation=vector[3:-1],
    )


def _vector(value: Any, what: str) -> NDArray[Any]:
    """A finite floating-point copy of the value."""
    try:
        array = np.array(value)
    except (TypeError, ValueError) as error:
        raise InvalidActionError(f"expected {_FORMS}; found {what} {value!r}") from error
    if array.dtype.kind not in "fiub":
        raise InvalidActionError(f"expected {_FORMS}; found {what} {value!r}")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InvalidActionError(f"expected finite numbers in {what}; found {array.tolist()}")
    return array


def _gripper(value: Any) -> float:
    gripper = float(value)
    if gripper not in (-1.0, 1.0):
        raise InvalidActionError(
            f"expected the gripper command to be exactly -1 (close) or 1 (open); found {gripper}. "
            "Threshold the policy's gripper output before it reaches the simulator: "
            "policy.actions.gripper.input=signed does that for a run, where above 0 opens."
        )
    return gripper
