"""Mu-law: small actions spread out for training, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.normalize import GRIPPER, restored
from calvin_eval.wrappers.stages.options import choice, chunk_array, number


@dataclass(frozen=True, kw_only=True)
class MuLaw(ActionStage):
    """Undo the mu-law companding of training.

    Attributes:
        mu: strength; RoboVLMs trains with 255.
        gripper: "bypass" leaves the last column alone, "scaled" expands it too.
    """

    mu: float = 255.0
    gripper: str = "bypass"

    def __post_init__(self) -> None:
        number("mu of mu_law", self.mu, above=0)
        choice("gripper of mu_law", self.gripper, GRIPPER)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of the same type."""
        keep = "gripper" if self.gripper == "bypass" else "nothing"
        return expand(chunk_array("mu_law", actions), self.mu, keep=keep)


def compress(values: NDArray[Any], mu: float = 255.0, *, keep: str = "gripper") -> NDArray[Any]:
    """sgn(x) ln(1 + mu |x|) / ln(1 + mu): maps [-1, 1] onto itself (RoboVLMs, data_utils).

    Args:
        values: (..., d) floating point; the type is kept.
        mu: strength, above 0.
        keep: "gripper" leaves the last column as it is, "nothing" none, "last_row" the last
            element of the first axis.
    """
    result = np.sign(values) * np.log1p(mu * np.abs(values)) / math.log1p(mu)
    return restored(result, values, keep)


def expand(values: NDArray[Any], mu: float = 255.0, *, keep: str = "gripper") -> NDArray[Any]:
    """sgn(y) ((1 + mu)^|y| - 1) / mu, the inverse of `compress`."""
    result = np.sign(values) * (np.expm1(np.abs(values) * math.log1p(mu)) / mu)
    return restored(result, values, keep)
