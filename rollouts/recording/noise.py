"""Disturbances: short bursts of random motion, after which the policy has to recover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Policy, Request, with_defaults

_LATEST = 32  # steps of a subtask after which no burst begins: a demonstration has to follow
_LENGTHS = (4, 9)  # steps of a burst, the second exclusive
_SETTLE = 3  # steps of standing still, in which the arm reaches its target


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How a demonstrator is disturbed.

    Attributes:
        rate: share of the subtasks with a burst, 0 to 1.
        strength: largest component of a burst's relative action, 0 to 1.
    """

    rate: float = 0.3
    strength: float = 0.8

    def __post_init__(self) -> None:
        for name in ("rate", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"noise {name}: expected a number from 0 to 1, found {getattr(self, name)}"
                )


class DisturbedPolicy(BasePolicy):
    """A policy that is now and then pushed away and then starts its subtask anew.

    A burst is one random direction of the hand, executed and recorded like any action, with the
    gripper as it was. After it the policy is reset, so that it looks at what it finds: the
    recovery is its own. Where and how a burst happens is a function of seed, session and position.

    Args:
        policy: the demonstrator.
        rules: how often, how strong.
        seed: integers >= 0.

    Attributes:
        bursts: by position of the subtask in the chain, first step of its burst and the step
            after it. An object serves one chain.
    """

    def __init__(self, policy: Policy, rules: Disturbance, seed: Sequence[int]) -> None:
        self.requirements = policy.requirements
        self._policy = with_defaults(policy)
        self._rules = rules
        self._seed = tuple(seed)
        self._again = False
        self.bursts: dict[int, tuple[int, int]] = {}

    def reset(self, session: int, instruction: str) -> None:
        """Begin a subtask."""
        self._again = False
        self._policy.reset(session, instruction)

    def end(self, session: int) -> None:
        """Free the policy's session."""
        self._policy.end(session)

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide for one request: a burst, or what the policy decides."""
        (request,) = requests
        burst = self._burst(request)
        if burst is not None:
            self._again = True
            return [burst]
        if self._again:
            self._again = False
            self._policy.reset(request.session, request.instruction)
        return self._policy.act(requests)

    def _burst(self, request: Request) -> NDArray[Any] | None:
        """The actions (k, 7) of the burst that begins now, if one does."""
        if request.position in self.bursts:
            return None
        rng = np.random.default_rng((*self._seed, request.session, request.position))
        first = int(rng.integers(0, _LATEST))
        if rng.uniform() >= self._rules.rate or request.step < first or request.step >= _LATEST:
            return None
        length = int(rng.integers(*_LENGTHS))
        actions = np.zeros((length + _SETTLE, 7))
        direction = rng.uniform(-1, 1, 6)
        direction *= self._rules.strength * rng.uniform(0.5, 1) / np.abs(direction).max()
        actions[:length, :6] = direction
        actions[:, 6] = 1.0 if request.obs["robot_obs"][14] > 0 else -1.0
        self.bursts[request.position] = (request.step, request.step + len(actions))
        return actions
