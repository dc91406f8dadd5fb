"""The robot's state as a network wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError, UsageError
from calvin_eval.wrappers.stages.base import Context, Observation, ObservationStage
from calvin_eval.wrappers.stages.options import choice, numbers
from calvin_eval.wrappers.stages.rotations import REPRESENTATIONS, convert

EULER = "euler_xyz"  # what CALVIN's robot_obs[3:6] is
STATE = "state"

FIELDS = {
    "tcp_position": slice(0, 3),
    "tcp_euler": slice(3, 6),
    "gripper_width": slice(6, 7),
    "joints": slice(7, 14),
    "gripper_action": slice(14, 15),
}
"""Where CALVIN's `robot_obs` has metres, radians (extrinsic xyz), metres, radians, and the last
gripper command -1 or 1."""

SETS: dict[str, tuple[str, ...]] = {
    "all": tuple(FIELDS),
    "eight": ("tcp_position", "tcp_euler", "gripper_width", "gripper_action"),
    "seven": ("tcp_position", "tcp_euler", "gripper_width"),
    "pose_and_gripper": ("tcp_position", "tcp_euler", "gripper_action"),
}
"""Selections that published policies use: HULC, vla-eval's `states`, RLinf, GR-1."""


@dataclass(frozen=True, kw_only=True)
class Proprioception(ObservationStage):
    """Write `state` from `robot_obs`, which stays as it is.

    Attributes:
        fields: name of a set in `SETS`, or names of `FIELDS` and indices 0..14, in order.
        angles: how `tcp_euler` is read; "euler_xyz" is what it is, "euler_xyz_intrinsic" what
            3D Diffuser Actor takes it for.
        orientation: how `tcp_euler` is written, a name in `rotations.REPRESENTATIONS`.
        gripper: "signed" leaves `gripper_action` at -1 and 1, "unit" makes it 0 and 1.
        mean: subtracted; one number per entry of the state.
        std: divided by, after `mean`.
        low: what becomes -1; one number per entry.
        high: what becomes 1.
        dtype: "float32" or "float64".
    """

    fields: str | Sequence[str | int] = "all"
    angles: str = EULER
    orientation: str = EULER
    gripper: str = "signed"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choice("angles of proprioception", self.angles, (EULER, "euler_xyz_intrinsic"))
        choice("orientation of proprioception", self.orientation, REPRESENTATIONS)
        choice("gripper of proprioception", self.gripper, ("signed", "unit"))
        choice("dtype of proprioception", self.dtype, ("float32", "float64"))
        parts = self._parts()
        if self.orientation != EULER and "tcp_euler" not in parts:
            raise UsageError(
                "proprioception: expected tcp_euler among the fields that orientation="
                f"{self.orientation} is about, found {self.fields}."
            )
        for one, other in (("mean", "std"), ("low", "high")):
            given = [name for name in (one, other) if getattr(self, name) is not None]
            if len(given) == 1:
                raise UsageError(f"proprioception: expected {one} and {other} together.")
            for name in given:
                numbers(f"{name} of proprioception", getattr(self, name))
        if self.mean is not None and self.low is not None:
            raise UsageError("proprioception: expected mean and std, or low and high, not both.")

    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """The frames with `state` (D,), or (T, D) where `robot_obs` has a leading axis."""
        return [{**frame, STATE: self._state(np.asarray(frame["robot_obs"]))} for frame in frames]

    def _state(self, robot_obs: NDArray[Any]) -> NDArray[Any]:
        parts = [self._part(robot_obs, part) for part in self._parts()]
        state = np.concatenate(parts, axis=-1)
        if self.mean is not None and self.std is not None:
            state = (state - self._vector(self.mean, state)) / self._vector(self.std, state)
        if self.low is not None and self.high is not None:
            low, high = self._vector(self.low, state), self._vector(self.high, state)
            state = 2 * (state - low) / (high - low) - 1
        return state.astype(self.dtype)

    def _parts(self) -> tuple[str | int, ...]:
        """Names and indices, checked."""
        if isinstance(self.fields, str):
            choice("fields of proprioception", self.fields, SETS)
            return SETS[self.fields]
        for part in self.fields:
            if not isinstance(part, int):
                choice("field of proprioception", part, FIELDS)
            elif not 0 <= part < 15:
                raise UsageError(f"proprioception: expected indices 0..14, found {part}.")
        return tuple(self.fields)

    def _part(self, robot_obs: NDArray[Any], part: str | int) -> NDArray[Any]:
        if isinstance(part, int):
            return robot_obs[..., part : part + 1]
        values = robot_obs[..., FIELDS[part]]
        if part == "gripper_action" and self.gripper == "unit":
            return (values + 1) / 2
        if part == "tcp_euler":
            return convert(values, self.angles, self.orientation)
        return values

    def _vector(self, numbers: Sequence[float], state: NDArray[Any]) -> NDArray[np.float64]:
        vector = np.asarray(numbers, dtype=np.float64)
        if vector.shape != state.shape[-1:]:
            raise PolicyError(
                f"proprioception: expected {state.shape[-1]} numbers each to normalise the state "
                f"with, found {vector.size}."
            )
        return vector
