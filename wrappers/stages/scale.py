"""Units, limits, columns and number types of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError, UsageError
from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import (
    Numbers,
    choice,
    chunk_array,
    flag,
    number,
    numbers,
    whole,
)

TYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Scale(ActionStage):
    """From metres and radians to CALVIN's relative units, x50 and x20, or back.

    Attributes:
        position: factor of columns 0-2.
        rotation: factor of columns 3-5.
        inverse: whether to divide instead.
    """

    position: float = 50.0
    rotation: float = 20.0
    inverse: bool = False

    def __post_init__(self) -> None:
        number("position of scale", self.position, above=0)
        number("rotation of scale", self.rotation, above=0)
        flag("inverse of scale", self.inverse)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, 6) or (k, 7) of the same type."""
        result = chunk_array("scale", actions, columns=(6, 7)).copy()
        apply = np.divide if self.inverse else np.multiply
        result[:, :3] = apply(result[:, :3], self.position)
        result[:, 3:6] = apply(result[:, 3:6], self.rotation)
        return result


@dataclass(frozen=True, kw_only=True)
class Clip(ActionStage):
    """Cut actions to limits.

    Attributes:
        low: one number for columns 0-5, or a list for as many of the first columns.
        high: likewise.
    """

    low: Numbers = -1.0
    high: Numbers = 1.0

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = numbers(f"{name} of clip", getattr(self, name))
            object.__setattr__(self, name, value)
        low, high = np.asarray(self.low), np.asarray(self.high)
        if (low.ndim and high.ndim and low.size != high.size) or (low > high).any():
            raise UsageError(
                f"clip: expected low <= high and as many numbers in both, found {low.tolist()} "
                f"and {high.tolist()}."
            )

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of the same type."""
        result = chunk_array("clip", actions).copy()
        low, high = np.asarray(self.low, result.dtype), np.asarray(self.high, result.dtype)
        width = max(low.size, high.size) if low.ndim or high.ndim else 6
        if width > result.shape[1]:
            raise PolicyError(
                f"clip: expected actions of {width} columns or more, found {result.shape[1]}."
            )
        result[:, :width] = result[:, :width].clip(low, high)
        return result


@dataclass(frozen=True, kw_only=True)
class Columns(ActionStage):
    """Pick and order columns, where a network returns more than one arm's action.

    Attributes:
        take: indices of the columns to keep, in their new order. X-VLA, whose rows are two arms
            of ten: 0 to 9.
    """

    take: Sequence[int]

    def __post_init__(self) -> None:
        if isinstance(self.take, str) or not isinstance(self.take, Sequence) or not self.take:
            raise UsageError(f"take of columns: expected a list of columns, found {self.take!r}.")
        for index in self.take:
            whole("take of columns", index, least=0)
        object.__setattr__(self, "take", tuple(self.take))

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, number of columns taken) of the same type."""
        values = chunk_array("columns", actions)
        if max(self.take) >= values.shape[1]:
            raise PolicyError(
                f"columns: expected actions of {max(self.take) + 1} columns or more, found "
                f"{values.shape[1]}."
            )
        return values[:, list(self.take)]


@dataclass(frozen=True, kw_only=True)
class Cast(ActionStage):
    """Round actions to another floating-point type, as evaluation code that casts its output does.

    Attributes:
        dtype: "float16" (RoboFlamingo, CLOVER, Seer), "float32" or "float64".
    """

    dtype: str

    def __post_init__(self) -> None:
        choice("dtype of cast", self.dtype, TYPES)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of that type."""
        return chunk_array("cast", actions).astype(self.dtype)
