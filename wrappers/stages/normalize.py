"""Between normalised and physical actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import (
    Numbers,
    choice,
    chunk_array,
    flag,
    number,
    numbers,
)

METHODS = {
    "minmax": ("low", "high"),
    "quantiles": ("low", "high"),
    "mean_std": ("mean", "std"),
}
"""Statistics that each method needs."""

GRIPPER = ("bypass", "scaled")
KEEP = ("gripper", "last_row", "nothing")


@dataclass(frozen=True, kw_only=True)
class Unnormalize(ActionStage):
    """From normalised to physical actions, by the statistics of the training data.

    `minmax` and `quantiles` map [-1, 1] to [low, high] and differ in what the numbers are called;
    `mean_std` is a std + mean. RoboVLMs: minmax with scalars. openpi: quantiles, eps 1e-6.
    Regularised RoboVLMs actions (`x_mean`, `x_std`), which its own evaluation never reverts:
    mean_std, eps 1e-6.

    Attributes:
        method: "minmax", "quantiles" or "mean_std".
        low: value of -1: a number, or one per column.
        high: value of +1.
        mean: value of 0.
        std: value of one unit.
        eps: added to high - low, or to std, as the training code did.
        clip: whether actions are first cut to [-1, 1] (minmax and quantiles).
        gripper: "bypass" leaves the last column alone; "scaled" un-normalises it too, as
            RoboVLMs does with its gripper of 0 or 1.
    """

    method: str = "minmax"
    low: Numbers | None = None
    high: Numbers | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    eps: float = 0.0
    clip: bool = False
    gripper: str = "bypass"

    def __post_init__(self) -> None:
        choice("method of unnormalize", self.method, METHODS)
        choice("gripper of unnormalize", self.gripper, GRIPPER)
        number("eps of unnormalize", self.eps)
        flag("clip of unnormalize", self.clip)
        for name in ("low", "high", "mean", "std"):
            value = getattr(self, name)
            if (value is not None) != (name in METHODS[self.method]):
                raise UsageError(
                    f"unnormalize: expected {' and '.join(METHODS[self.method])}, and no other "
                    f"statistics, for method {self.method}; found {name}={value!r}."
                )
            if value is not None:
                object.__setattr__(self, name, numbers(f"{name} of unnormalize", value))
        self._check_order()

    def _check_order(self) -> None:
        if self.method == "mean_std":
            if self.clip:
                raise UsageError("unnormalize: clip is for minmax and quantiles only.")
            return
        low, high = np.asarray(self.low), np.asarray(self.high)
        if low.ndim and high.ndim and low.shape != high.shape:
            raise UsageError(
                f"unnormalize: expected as many numbers in low as in high, found {low.size} and "
                f"{high.size}."
            )
        if (low > high).any():
            raise UsageError(
                f"unnormalize: expected low <= high, found {low.tolist()} and {high.tolist()}."
            )

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of the same type."""
        values = chunk_array("unnormalize", actions)
        width = values.shape[1] - (self.gripper == "bypass")
        first, second = (
            _fitted(name, getattr(self, name), width, values.shape[1])
            for name in METHODS[self.method]
        )
        result = values.copy()
        columns = values[:, :width]
        if self.method == "mean_std":
            result[:, :width] = unstandardize(columns, first, second, eps=self.eps, keep="nothing")
            return result
        if self.clip:
            columns = columns.clip(-1, 1)
        result[:, :width] = unnormalize(columns, first, second, eps=self.eps, keep="nothing")
        return result


def _fitted(name: str, value: Any, width: int, columns: int) -> NDArray[np.float64]:
    """The statistics of the first `width` of all columns."""
    array = np.asarray(value, np.float64)
    if array.ndim and array.size not in (width, columns):
        raise UsageError(
            f"unnormalize: expected one number or {width} in {name}, since actions have "
            f"{columns} columns; found {array.size}."
        )
    return array[:width] if array.ndim else array


def normalize(actions: NDArray[Any], low: Any, high: Any, *, keep: str = "gripper") -> NDArray[Any]:
    """Cut to [low, high] and map to [-1, 1] (RoboVLMs, data_utils).

    Args:
        actions: (..., d) floating point; the type is kept.
        low: number or (d,).
        high: number or (d,).
        keep: "gripper" leaves the last column as it is, "nothing" none, "last_row" the last
            element of the first axis.
    """
    low, span = _bounds(actions, low, high, 0.0)
    cut = np.clip(actions, low, np.asarray(high, actions.dtype))
    return restored(2 * (cut - low) / span - 1, actions, keep)


def unnormalize(
    actions: NDArray[Any], low: Any, high: Any, *, eps: float = 0.0, keep: str = "gripper"
) -> NDArray[Any]:
    """Map [-1, 1] to [low, high + eps]; see `normalize`. Nothing is cut."""
    low, span = _bounds(actions, low, high, eps)
    return restored(0.5 * (actions + 1) * span + low, actions, keep)


def standardize(
    actions: NDArray[Any], mean: Any, std: Any, *, eps: float = 1e-6, keep: str = "gripper"
) -> NDArray[Any]:
    """(a - mean) / (std + eps), as RoboVLMs regularises actions; see `normalize`."""
    mean, unit = _moments(actions, mean, std, eps)
    return restored((actions - mean) / unit, actions, keep)


def unstandardize(
    actions: NDArray[Any], mean: Any, std: Any, *, eps: float = 1e-6, keep: str = "gripper"
) -> NDArray[Any]:
    """The inverse of `standardize`."""
    mean, unit = _moments(actions, mean, std, eps)
    return restored(actions * unit + mean, actions, keep)


def restored(result: NDArray[Any], original: NDArray[Any], keep: str) -> NDArray[Any]:
    """The result with the part that a transform leaves alone put back; changes it in place.

    RoboVLMs writes `x[-1]` where it means the gripper: right for one action (7,), the last time
    step of a chunk (T, 7). `keep="last_row"` is that, `keep="gripper"` what was meant.
    """
    choice("keep", keep, KEEP)
    if keep == "gripper":
        result[..., -1] = original[..., -1]
    elif keep == "last_row":
        result[-1] = original[-1]
    return result


def _bounds(actions: NDArray[Any], low: Any, high: Any, eps: float) -> tuple[Any, Any]:
    """Lower bound and width in the actions' type; the difference is taken in double precision."""
    span = np.asarray(high, np.float64) - np.asarray(low, np.float64) + eps
    return np.asarray(low, actions.dtype), span.astype(actions.dtype)


def _moments(actions: NDArray[Any], mean: Any, std: Any, eps: float) -> tuple[Any, Any]:
    unit = np.asarray(std, np.float64) + eps
    return np.asarray(mean, actions.dtype), unit.astype(actions.dtype)
