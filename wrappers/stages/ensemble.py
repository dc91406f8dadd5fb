"""One plan out of several predictions for the same steps.

Averages are taken number by number. That suits relative actions and gripper probabilities;
absolute Euler angles jump at pi, where CALVIN's arm starts, so average those as `rotation_6d_*`
and put `orientation` behind the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import choice, chunk_array, flag, number, whole

METHODS = ("first", "latest", "exponential", "adaptive")


@dataclass(frozen=True, kw_only=True)
class Ensemble(ActionStage):
    """Combine what this and earlier decisions predict for the steps of the present chunk.

    `execute` behind it says how many of them are executed before the next decision: one in the
    classical form. A prediction counts for the step it was made for, and is dropped when the
    present lies behind its chunk's end.

    Attributes:
        method: "first" is the first action of the newest chunk alone (what RoboVLMs' ensemble
            amounts to); "latest" the newest chunk as it is; "exponential" the mean with weights
            decay^age; "adaptive" the mean with weights exp(alpha cos(prediction, newest)).
        decay: of exponential, where age is how many decisions ago a prediction was made. 1 is
            the plain mean; ACT, which favours old predictions, has exp(0.01).
        alpha: of adaptive; CogACT and DreamVLA have 0.1.
        horizon: how many decisions are remembered at most; all that still matter if None.
    """

    method: str = "exponential"
    decay: float = 1.0
    alpha: float = 0.1
    horizon: int | None = None

    def __post_init__(self) -> None:
        choice("method of ensemble", self.method, METHODS)
        number("decay of ensemble", self.decay, above=0)
        number("alpha of ensemble", self.alpha)
        if self.horizon is not None:
            whole("horizon of ensemble", self.horizon, least=1)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, d) of the same type; (1, d) for "first"."""
        newest = chunk_array("ensemble", actions)
        if self.method == "first":
            return newest[:1]
        if self.method == "latest":
            return newest
        subtask, now = context.request.position, context.request.step
        if context.memory.get("subtask") != subtask:  # steps count from zero again
            context.memory.update(subtask=subtask, plans=[])
        plans = [*context.memory["plans"], (now, newest.copy())]
        plans = [(start, plan) for start, plan in plans if start + len(plan) > now]
        context.memory["plans"] = plans = plans[-(self.horizon or len(plans)) :]
        return np.stack([self._mean(plans, now + row) for row in range(len(newest))])

    def _mean(self, plans: Sequence[tuple[int, NDArray[Any]]], step: int) -> NDArray[Any]:
        """The action (d,) for an environment step, of the plans that reach it."""
        ages, predictions = [], []
        for age, (start, plan) in enumerate(reversed(plans)):
            if step - start < len(plan):
                ages.append(age)
                predictions.append(plan[step - start])
        rows = np.stack(predictions)
        if self.method == "exponential":
            weights = np.power(self.decay, np.array(ages, np.float64))
        else:
            weights = np.exp(self.alpha * _cosines(rows, rows[0]))
        weights = (weights / weights.sum()).astype(rows.dtype)
        mean: NDArray[Any] = (weights[:, None] * rows).sum(axis=0)
        return mean


def _cosines(rows: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Of the angles between rows (n, d) and the reference (d,)."""
    rows, reference = rows.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference)
    cosines: NDArray[np.float64] = rows @ reference / (lengths + 1e-7)
    return cosines


@dataclass(frozen=True, kw_only=True)
class Stagger(ActionStage):
    """Decide several times in a row, then execute the mean of the plans (VLA-Adapter).

    A cycle has `queries` decisions. Each but the last is followed by one action, the last by all
    steps that are left of the plans. Every action is the plain mean of the cycle's predictions
    for its step.

    Attributes:
        queries: decisions in a cycle. VLA-Adapter has 3 with chunks of 8, which makes 10 actions.
        repeat: as VLA-Adapter's loop does, execute the first action after the last decision
            twice, and leave out the last step that every plan reaches.
    """

    queries: int = 3
    repeat: bool = False

    def __post_init__(self) -> None:
        whole("queries of stagger", self.queries, least=1)
        flag("repeat of stagger", self.repeat)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (1, d), or after the last decision of a cycle (k, d), of the same type."""
        newest = chunk_array("stagger", actions)
        plans = [*context.memory.get("plans", ()), newest.copy()]
        present = len(plans) - 1
        if len(plans) < self.queries:
            context.memory["plans"] = plans
            return _staggered_mean(plans, present)[None]
        context.memory["plans"] = []
        common, end = len(plans[0]), len(newest) + present
        steps = list(range(present, end))
        if self.repeat:
            steps = [present, *range(present, common - 1), *range(common, end)]
        return np.stack([_staggered_mean(plans, step) for step in steps])


def _staggered_mean(plans: Sequence[NDArray[Any]], step: int) -> NDArray[Any]:
    """The mean (d,) of what plans, each made one step after the one before, say of a step."""
    rows = [plan[step - i] for i, plan in enumerate(plans) if 0 <= step - i < len(plan)]
    mean: NDArray[Any] = sum(rows[1:], rows[0]) / len(rows)
    return mean
