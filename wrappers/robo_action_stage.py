"""The stage `robo_action`: a network's output read as RoboActions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calvin_eval.wrappers.robo_action import RoboAction
from calvin_eval.wrappers.robo_action_parser import RoboActionParser
from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.gripper import HIGH, THRESHOLDS
from calvin_eval.wrappers.stages.options import choice, number


@dataclass(frozen=True, kw_only=True)
class RoboActions(ActionStage):
    """Reads every row (d,) of a chunk as a RoboAction and returns CALVIN's actions (k, 7).

    Rows of fewer than six numbers are filled up with zeros and those of more than seven cut; the
    arm's numbers are cut to [low, high], not rescaled.

    Attributes:
        low: least arm number.
        high: largest arm number.
        gripper: what the seventh number is, a name in `stages.gripper.THRESHOLDS`.
        gripper_high: what a high seventh number does, `open` or `close`.
        threshold: openings above it open the gripper.
    """

    low: float = -1.0
    high: float = 1.0
    gripper: str = "zero_one"
    gripper_high: str = "open"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Raise UsageError for an option that cannot be meant."""
        choice("gripper of robo_action", self.gripper, THRESHOLDS)
        choice("gripper_high of robo_action", self.gripper_high, HIGH)
        number("low of robo_action", self.low)
        number("high of robo_action", self.high, above=self.low)
        number("threshold of robo_action", self.threshold)

    def __call__(self, actions: Actions, context: Context) -> Actions:
        """Actions (k, 7) float64 in CALVIN's units."""
        records = self.records(actions, context.request.instruction)
        return np.stack([record.to_calvin(self.threshold) for record in records])

    def records(self, actions: Actions, instruction: str) -> list[RoboAction]:
        """The chunk's RoboActions, each with the steps that the chunk still has."""
        parser = RoboActionParser(
            low=self.low, high=self.high, gripper=self.gripper, gripper_high=self.gripper_high
        )
        return parser.parse_trajectory(actions, instruction)
