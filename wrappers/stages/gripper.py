"""The gripper's many conventions, and CALVIN's one: 1 opens, -1 closes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import choice, chunk_array, flag, number

THRESHOLDS: Mapping[str, float] = {
    "logit": 0.5,
    "probability": 0.5,
    "zero_one": 0.5,
    "signed": 0.0,
}
"""What a network says about its gripper, and where each is split by default.

`logit` goes through a sigmoid, and the threshold is a probability; `probability` and `zero_one`
lie in [0, 1]; `signed` lies in [-1, 1].
"""

HIGH = ("open", "close")
OUTPUTS = ("command", "zero_one", "probability")


@dataclass(frozen=True, kw_only=True)
class Gripper(ActionStage):
    """Read the last column as a gripper command.

    Attributes:
        input: "logit", "probability", "zero_one" or "signed".
        threshold: a value above it is high; 0.5, or 0 for "signed", if None. CLOVER splits a
            sigmoid at 0.4, X-VLA at 0.8.
        inclusive: whether a value at the threshold is high as well.
        high: what a high value does: "open" (CALVIN, RoboVLMs) or "close" (LIBERO, X-VLA).
        output: "command" is CALVIN's 1 for open and -1 for close; "zero_one" 1 for open and 0 for
            close, for stages between (RoboVLMs un-normalises it); "probability" that of open,
            not thresholded, for an ensemble to average.
    """

    input: str
    threshold: float | None = None
    inclusive: bool = False
    high: str = "open"
    output: str = "command"

    def __post_init__(self) -> None:
        choice("input of gripper", self.input, THRESHOLDS)
        choice("high of gripper", self.high, HIGH)
        choice("output of gripper", self.output, OUTPUTS)
        flag("inclusive of gripper", self.inclusive)
        if self.threshold is None:
            object.__setattr__(self, "threshold", THRESHOLDS[self.input])
        number("threshold of gripper", self.threshold)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of the same type."""
        result = chunk_array("gripper", actions).copy()
        column = result[:, -1]
        if self.output == "probability":
            result[:, -1] = open_probability(column, self.input, self.high)
            return result
        values = sigmoid(column) if self.input == "logit" else column
        # In the column's own type, so that a float32 0.8 is at the threshold 0.8.
        threshold = column.dtype.type(self.threshold)
        high = values >= threshold if self.inclusive else values > threshold
        opens = high if self.high == "open" else ~high
        result[:, -1] = np.where(opens, 1, -1 if self.output == "command" else 0)
        return result


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)) in the values' own type, for values of any size."""
    result: NDArray[Any] = 0.5 * (1 + np.tanh(0.5 * logits))
    return result


def open_probability(values: NDArray[Any], kind: str, high: str = "open") -> NDArray[Any]:
    """How sure the network is that the gripper opens, in [0, 1] if the values are in range.

    Args:
        values: any shape, floating point; the type is kept.
        kind: a name in `THRESHOLDS`.
        high: what a high value does, "open" or "close".
    """
    if kind == "logit":
        values = sigmoid(values)
    elif kind == "signed":
        values = 0.5 * (values + 1)
    return values if high == "open" else 1 - values
