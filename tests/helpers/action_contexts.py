"""What action stages are called with."""

from __future__ import annotations

from typing import Any

import numpy as np

from calvin_eval.wrappers.policy import Request
from calvin_eval.wrappers.stages.base import Context

POSE = (0.1, -0.1, 0.5, 3.09, -0.02, 1.5)


def request_at(pose: Any = POSE, *, step: int = 0, position: int = 0) -> Request:
    """A request whose measured pose (6,) is given."""
    obs = {"robot_obs": np.concatenate([np.asarray(pose, np.float64), np.zeros(9)])}
    return Request(session=0, instruction="go", position=position, step=step, obs=obs)


def context_at(
    pose: Any = POSE, *, step: int = 0, position: int = 0, memory: dict[str, Any] | None = None
) -> Context:
    """A context with that request, and a memory that the caller may keep."""
    request = request_at(pose, step=step, position=position)
    return Context(request, {} if memory is None else memory)
