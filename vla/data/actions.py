"""What is done to recorded actions before a network learns them, in RoboVLMs' order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.wrappers.stages.companding import compress
from calvin_eval.wrappers.stages.frames import world_to_tcp
from calvin_eval.wrappers.stages.normalize import normalize, standardize

Numbers = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ActionTransform:
    """Normalise, regularise, compand; and, separately, turn into the TCP frame.

    Attributes:
        bounds: what becomes -1 and 1; values outside are cut. None: no normalising.
        moments: mean and standard deviation for regularising, or None.
        mu: strength of the mu-law companding, or None for none.
        tcp: whether actions are turned into the TCP frame.
        keep: which part the regularising and the companding leave alone: "gripper" is what was
            meant, "last_row" what RoboVLMs does: the last time step, gripper or not.
    """

    bounds: tuple[float, float] | None = None
    moments: tuple[float, float] | None = None
    mu: float | None = None
    tcp: bool = False
    keep: str = "gripper"

    def __post_init__(self) -> None:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise UsageError(f"expected norm_min < norm_max, found {self.bounds}")
        if self.keep not in ("gripper", "last_row"):
            raise UsageError(f"keep: expected gripper or last_row, found {self.keep!r}")

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], compat: Compat | None = None
    ) -> ActionTransform:
        """What a RoboVLMs configuration says.

        Args:
            config: keys `norm_action`, `norm_min`, `norm_max`, `regular_action`, `x_mean`,
                `x_std`, `use_mu_law`, `mu_val`, `tcp_rel`.
            compat: its `mu_law_axis` says which part is left alone.
        """
        bounds = (float(config.get("norm_min", -1)), float(config.get("norm_max", 1)))
        moments = (float(config.get("x_mean", 0)), float(config.get("x_std", 1)))
        return cls(
            bounds=bounds if config.get("norm_action") else None,
            moments=moments if config.get("regular_action") else None,
            mu=float(config.get("mu_val", 255)) if config.get("use_mu_law") else None,
            tcp=bool(config.get("tcp_rel", False)),
            keep="last_row" if (compat or Compat()).mu_law_axis == "first" else "gripper",
        )

    def scaled(self, actions: Numbers) -> Numbers:
        """Actions (T, 7) of one sample, normalised, regularised and companded; the same type."""
        if self.bounds is not None:
            actions = normalize(actions, *self.bounds)
        if self.moments is not None:
            actions = standardize(actions, *self.moments, keep=self.keep)
        if self.mu is not None:
            actions = compress(actions, self.mu, keep=self.keep)
        return actions

    def turned(self, actions: Numbers, robot_obs: Numbers) -> Numbers:
        """Actions (T, 7), in the TCP frame if that is asked for.

        Args:
            actions: in the world frame.
            robot_obs: (T, 15) the states in which they were taken.
        """
        if not self.tcp:
            return actions
        return world_to_tcp(actions, robot_obs[..., 3:6]).astype(actions.dtype)


def open_is_one(actions: Numbers) -> Numbers:
    """Actions (..., 7) with a gripper of 1 (open) or 0: floor((g + 1) / 2), as CALVIN's batches."""
    result = actions.copy()
    result[..., -1] = np.floor((actions[..., -1] + 1) / 2)
    return result


def one_or(actions: Numbers, other: float) -> Numbers:
    """Actions (..., 7) whose gripper is 1 where it was exactly 1, and `other` elsewhere."""
    result = actions.copy()
    result[..., -1] = np.where(actions[..., -1] == 1, 1, other)
    return result
