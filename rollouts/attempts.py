"""Chains that wait for a worker, and how often each was tried."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.chain import ChainOutcome, given_start
from calvin_eval.sim.chains import Chain


class ChainQueue:
    """Chains that wait for a worker.

    Args:
        chains: in the order in which they are begun.
        retries: times that a chain is tried again.

    Attributes:
        waiting: chains that can be begun at any time.
        suspects: chains that were in progress when a policy's process died, or that hung. One of
            them may have killed it, so each runs alone, and the blame falls where it belongs.
    """

    def __init__(self, chains: Sequence[Chain], retries: int) -> None:
        self.waiting = deque(chains)
        self.suspects: deque[Chain] = deque()
        self._retries = retries
        self._attempts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.suspects)

    def put_back(self, chain: Chain, reason: str, *, suspect: bool) -> ChainOutcome | None:
        """Queue a chain again after a fault; or, after too many, an error record for it."""
        attempts = self._attempts[chain.id] = self._attempts.get(chain.id, 0) + 1
        if attempts <= self._retries:
            (self.suspects if suspect else self.waiting).appendleft(chain)
            return None
        record = ChainRecord(
            chain=chain.id,
            initial_state=dict(chain.initial_state),
            tasks=chain.tasks,
            subtasks=(),
            status="error",
            error=f"given up after {attempts} attempts: {reason}",
            start=given_start(chain),
        )
        return ChainOutcome(record=record, actions=(), seconds={})
