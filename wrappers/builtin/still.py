"""`builtin:still`: the arm stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements


class StillPolicy(BasePolicy):
    """Commands no motion and an open gripper at every step."""

    def __init__(self) -> None:
        self.requirements = Requirements()

    def act(self, requests: Sequence[Request]) -> list[NDArray[np.float64]]:
        """Decide one action, shape (1, 7), for every request."""
        return [hold_still(1.0)[None] for _ in requests]


def hold_still(gripper: float) -> NDArray[np.float64]:
    """The relative action (7,) that moves nothing and keeps a gripper command (-1 or 1)."""
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper])
