"""The stage `robo_action`: a network's output read as RoboActions."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        most_translation: largest length of the first three numbers; longer ones are shortened.
        most_rotation: largest length of the next three.
        least_confidence: actions of which the network is less sure hold still, with the gripper
            as they say. Sure is the margin of the gripper's probability, |2 p - 1|.
    """

    low: float = -1.0
    high: float = 1.0
    gripper: str = "zero_one"
    gripper_high: str = "open"
    threshold: float = 0.5
    most_translation: float | None = None
    most_rotation: float | None = None
    least_confidence: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for an option that cannot be meant."""
        choice("gripper of robo_action", self.gripper, THRESHOLDS)
        choice("gripper_high of robo_action", self.gripper_high, HIGH)
        number("low of robo_action", self.low)
        number("high of robo_action", self.high, above=self.low)
        number("threshold of robo_action", self.threshold)
        number("least_confidence of robo_action", self.least_confidence)
        for name in ("most_translation", "most_rotation"):
            if getattr(self, name) is not None:
                number(f"{name} of robo_action", getattr(self, name), above=0)

    def __call__(self, actions: Actions, context: Context) -> Actions:
        """Actions (k, 7) float64 in CALVIN's units."""
        records = self.records(actions, context.request.instruction)
        return np.stack([self._safe(record).to_calvin(self.threshold) for record in records])

    def _safe(self, record: RoboAction) -> RoboAction:
        if record.confidence < self.least_confidence:
            return replace(record, translation=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0))
        return record.limited(self.most_translation, self.most_rotation)

    def records(self, actions: Actions, instruction: str) -> list[RoboAction]:
        """The chunk's RoboActions, each with the steps that the chunk still has."""
        parser = RoboActionParser(
            low=self.low, high=self.high, gripper=self.gripper, gripper_high=self.gripper_high
        )
        return parser.parse_trajectory(actions, instruction)
