"""A policy in the process that simulates, asked as one elsewhere is asked."""

from __future__ import annotations

from collections.abc import Sequence

from calvin_eval.rollouts.generators import Generators
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Policy, Request, with_defaults


class PolicyHere(BasePolicy):
    """Calls a policy with streams of its own of the global random generators.

    As over a line, a reset travels with the next request, which says where in its chain it is.

    Args:
        policy: the policy.
        seed: of the streams.
    """

    def __init__(self, policy: Policy, seed: int | None) -> None:
        self._policy = with_defaults(policy)
        self.requirements = self._policy.requirements
        self._generators = Generators(seed)
        self._instruction: str | None = None

    def reset(self, session: int, instruction: str) -> None:
        """Travels with the next request."""
        self._instruction = instruction

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide for one request."""
        (request,) = requests
        instruction, self._instruction = self._instruction, None
        fresh = instruction is not None
        with self._generators.of(request.session, request.position, fresh=fresh):
            if instruction is not None:
                self._policy.reset(request.session, instruction)
            return self._policy.act(requests)

    def end(self, session: int) -> None:
        """End the session."""
        self._instruction = None
        self._generators.forget(session)
        self._policy.end(session)
