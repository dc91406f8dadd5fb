"""What travels between a worker and its policy: requests, and the ends of sessions.

A worker's side is a `LinkedPolicy`, the policy's side is `WorkerSessions`; what lies between them
(a socket, Ray) carries the messages.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from calvin_eval.rollouts.batching import Answer, Batcher
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request, Requirements

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """A request for a decision; with `reset` the policy is reset for the session first."""

    request: Request
    reset: bool


@dataclass(frozen=True)
class End:
    """The session's chain is over."""

    session: int


@dataclass(frozen=True)
class Leave:
    """The worker asks no more: what served it is free when this is answered."""


Reply: TypeAlias = "Answer | str | None"
"""To `Ask` an answer, to `End` None, and to both the policy's traceback if it raised."""


class LinkedPolicy(BasePolicy):
    """A policy in another process, as the chain loop sees it.

    Args:
        requirements: of the policy.

    Attributes:
        inference_seconds: that the policy itself took for this worker's requests, shared fairly
            among the requests of a batch.
    """

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
        self.inference_seconds = 0.0
        self._reset = False

    def reset(self, session: int, instruction: str) -> None:
        """Travels with the next request, which has both."""
        self._reset = True

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Ask for one request.

        Raises:
            RemotePolicyError: the policy raised.
            PolicyLostError: its process is gone.
        """
        reply = self._exchange(Ask(requests[0], self._reset))
        self._reset = False
        if not isinstance(reply, Answer):
            raise RemotePolicyError(str(reply))
        self.inference_seconds += reply.seconds / reply.batch
        return [reply.chunk]

    def end(self, session: int) -> None:
        """End the session there; raises as `act` does."""
        self._reset = False
        reply = self._exchange(End(session))
        if reply is not None:
            raise RemotePolicyError(str(reply))

    @abstractmethod
    def _exchange(self, message: Ask | End) -> Reply:
        """Send a message and return its reply; raises PolicyLostError if nobody is there."""


class WorkerSessions:
    """The sessions that one worker has with a policy; those still open end with the worker.

    Args:
        batcher: calls the policy.
        policy: the instance that serves the worker.
    """

    def __init__(self, batcher: Batcher, policy: BasePolicy) -> None:
        self.policy = policy
        self._batcher = batcher
        self._open: set[int] = set()

    def answer(self, message: Ask | End) -> Reply:
        """The reply to a message of the worker."""
        try:
            if isinstance(message, End):
                self._end(message.session)
                return None
            self._open.add(message.request.session)
            return self._batcher.ask(self.policy, message.request, reset=message.reset, owner=self)
        except RemotePolicyError as error:
            return error.trace

    def close(self) -> None:
        """The worker is gone: end what it left open, for example because it was killed."""
        for session in tuple(self._open):
            try:
                self._end(session)
            except RemotePolicyError as error:
                _log.warning("the end of an aborted chain %d failed: %s", session, error)

    def _end(self, session: int) -> None:
        if session in self._open:
            self._open.discard(session)
            self._batcher.end(self.policy, session, owner=self)
