"""Policies that cost nothing, so that the benchmark measures the engine around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.policy import Request, Requirements


class Wander:
    """Moves about; looks through both cameras if asked to, and decides every `chunk` steps."""

    def __init__(self, images: bool = True, chunk: int = 1) -> None:
        self.requirements = Requirements(rgb=("static", "gripper") if images else ())
        self._chunk = chunk

    def reset(self, session: int, instruction: str) -> None:
        """Nothing is remembered."""

    def act(self, requests: Sequence[Request]) -> list[NDArray[Any]]:
        """(chunk, 7) per request, a function of session and step."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> NDArray[Any]:
        steps = request.step + np.arange(self._chunk)
        turns = np.outer(steps, [0.05, 0.07, 0.09, 0.03, 0.02, 0.04]) + request.session
        return np.column_stack([0.5 * np.sin(turns), np.ones(self._chunk)])
