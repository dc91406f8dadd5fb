"""One action of seven degrees of freedom as a record.

The record is RoboVLMs' RoboAction with the one thing added that it leaves to the reader: which
way round its gripper number is. A policy does not need it; it is for tools that look at single
actions. `robo_action_parser` reads it from a network's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.stages.options import choice

CONVENTIONS = ("1_open", "1_closed")
"""What a gripper of 1 means; 0 is the opposite. RoboVLMs' pipeline has 1 for open throughout,
while the comment on its own record says closed."""

Triple = tuple[float, float, float]


class ControlMode(Enum):
    """How an action is meant to be followed."""

    POSITION = "position"
    VELOCITY = "velocity"
    FORCE = "force"
    TRAJECTORY = "trajectory"


@dataclass(frozen=True, kw_only=True)
class RoboAction:
    """One action.

    Attributes:
        translation: x, y, z.
        rotation: roll, pitch, yaw.
        gripper: 0 to 1, in the sense of `gripper_convention`.
        gripper_convention: "1_open" or "1_closed".
        action_type: what the instruction asks for: move, turn, stop, grab, release, navigate, or
            unknown.
        confidence: 0 to 1, see `wrappers.confidence`; 0 if nobody said.
        control_mode: how it is to be followed.
        prediction_horizon: how many actions the plan still has, this one included.
    """

    translation: Triple = (0.0, 0.0, 0.0)
    rotation: Triple = (0.0, 0.0, 0.0)
    gripper: float = 0.0
    gripper_convention: str = "1_open"
    action_type: str = "unknown"
    confidence: float = 0.0
    control_mode: ControlMode = ControlMode.VELOCITY
    prediction_horizon: int = 1

    def __post_init__(self) -> None:
        choice("gripper_convention of RoboAction", self.gripper_convention, CONVENTIONS)
        for name in ("translation", "rotation"):
            value = tuple(float(number) for number in getattr(self, name))
            if len(value) != 3:
                raise UsageError(f"{name} of RoboAction: expected 3 numbers, found {len(value)}.")
            object.__setattr__(self, name, value)
        if not 0 <= self.gripper <= 1:
            raise UsageError(f"gripper of RoboAction: expected 0 to 1, found {self.gripper}.")

    @property
    def opening(self) -> float:
        """The gripper number with 1 for open, whatever the convention."""
        return self.gripper if self.gripper_convention == "1_open" else 1 - self.gripper

    def with_convention(self, convention: str) -> RoboAction:
        """The same action with its gripper written in another convention."""
        return replace(
            self, gripper=gripper_number(self.opening, convention), gripper_convention=convention
        )

    def limited(
        self, translation: float | None = None, rotation: float | None = None
    ) -> RoboAction:
        """The same action, slowed down where it is faster: lengths, in its own units.

        Args:
            translation: largest length of the translation; any if None.
            rotation: largest length of the rotation.
        """
        return replace(
            self,
            translation=_shortened(self.translation, translation),
            rotation=_shortened(self.rotation, rotation),
        )

    def to_calvin(self, threshold: float = 0.5) -> NDArray[np.float64]:
        """CALVIN's relative action (7,) float64: the gripper is 1, open, above the threshold.

        Translation and rotation are taken to be in CALVIN's units.
        """
        command = 1.0 if self.opening > threshold else -1.0
        return np.array([*self.translation, *self.rotation, command])

    @classmethod
    def from_calvin(
        cls, action: NDArray[Any], convention: str = "1_open", **facts: Any
    ) -> RoboAction:
        """The record of a relative CALVIN action (7,), whose gripper is -1 or 1.

        Args:
            action: the action.
            convention: how the record is to write the gripper.
            **facts: further fields of the record.

        Raises:
            UsageError: it is no such action.
        """
        values = np.asarray(action, np.float64)
        if values.shape != (7,) or values[6] not in (-1, 1):
            raise UsageError(
                "expected a CALVIN action: 7 numbers with a gripper of -1 or 1; found "
                f"{values.tolist()}."
            )
        return cls(
            translation=triple(values[:3]),
            rotation=triple(values[3:6]),
            gripper=gripper_number(float(values[6] > 0), convention),
            gripper_convention=convention,
            **facts,
        )


def gripper_number(opening: float, convention: str) -> float:
    """The number that stands for an opening of 0 to 1 in a convention."""
    choice("gripper convention", convention, CONVENTIONS)
    return opening if convention == "1_open" else 1 - opening


def _shortened(values: Triple, most: float | None) -> Triple:
    length = float(np.linalg.norm(values))
    if most is None or length <= most:
        return values
    return triple(np.array(values) * (most / length))


def triple(values: NDArray[Any]) -> Triple:
    """Three numbers as a tuple of floats."""
    x, y, z = map(float, values)
    return x, y, z
