"""AdamW, and how its learning rate changes from step to step (RoboVLMs, trainer)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from calvin_eval.errors import UnknownNameError, UsageError

SCHEDULERS = ("constant", "cosine", "half-cosine")
OPTIMIZERS = ("adam", "adamw")
"""Both are AdamW: RoboVLMs' configurations say "adam" and nobody reads it."""


def build_optimizer(model: nn.Module, config: Mapping[str, Any]) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained, in one group.

    Args:
        model: prepared.
        config: `learning_rate` (2e-5), `weight_decay` (0).

    Raises:
        UsageError: nothing to train, or a number that cannot be.
        UnknownNameError: another `optimizer`.
    """
    name = config.get("optimizer", "adamw")
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError("nothing to train: train_setup freezes every parameter")
    return torch.optim.AdamW(
        trained,
        lr=_number(config, "learning_rate", 2e-5),
        weight_decay=_number(config, "weight_decay", 0.0),
    )


@dataclass(frozen=True)
class Schedule:
    """Factors of the learning rate. The first step's is 0 if there is a warm-up.

    Attributes:
        kind: "constant" (flat after the warm-up), "cosine" (half a wave down to 0) or
            "half-cosine" (half a wave down to `floor`).
        warmup: w, steps of linear growth from 0; need not be whole.
        total: T, the step at which a wave ends.
        floor: last factor of "half-cosine".
    """

    kind: str = "constant"
    warmup: float = 0.0
    total: float = math.inf
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no schedule.

        Raises:
            UnknownNameError: a kind that does not exist.
            UsageError: a wave that starts behind its end.
        """
        if self.kind not in SCHEDULERS:
            raise UnknownNameError("scheduler", self.kind, SCHEDULERS)
        if self.kind != "constant" and not self.warmup < self.total < math.inf:
            raise UsageError(
                f"scheduler {self.kind}: expected fewer steps of warm-up than steps in all, found "
                f"{self.warmup:g} of {self.total:g}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps_per_epoch: float) -> Schedule:
        """What a configuration says.

        Args:
            config: `scheduler`, `warmup_epochs` (0.25), `warmup_steps` (0), `min_lr_scale` (0.01,
                for "half-cosine" alone), `trainer.max_epochs` (5) and `trainer.max_steps` (-1).
            steps_per_epoch: the optimizer's steps in one epoch.

        Raises:
            UnknownNameError: a scheduler that does not exist.
            UsageError: a number that cannot be.
        """
        trainer = config.get("trainer") or {}
        warmup = _number(config, "warmup_epochs", 0.25) * steps_per_epoch
        epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
        total = math.inf if epochs in (None, -1) else float(epochs) * steps_per_epoch
        limit = math.inf if steps in (None, -1) else float(steps)
        if math.isinf(total) and math.isinf(limit):
            total = 5.0 * steps_per_epoch
        return cls(
            kind=str(config.get("scheduler", "constant")),
            warmup=warmup + _number(config, "warmup_steps", 0.0),
            total=min(total, limit),
            floor=_number(config, "min_lr_scale", 0.01),
        )

    def factor(self, step: int) -> float:
        """Factor of the learning rate at a step, the first of which is 0."""
        if step < self.warmup:
            return step / max(1.0, self.warmup)
        if self.kind == "constant":
            return 1.0
        floor = self.floor if self.kind == "half-cosine" else 0.0
        share = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * share)) / 2.0

    def attach(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """A torch scheduler; call its `step` once after each of the optimizer's."""
        return LambdaLR(optimizer, self.factor)


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{key}: expected a number from 0 up, found {value!r}")
    return float(value)
