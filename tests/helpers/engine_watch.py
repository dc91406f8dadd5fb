"""A display that sees what an engine does, and lays hands on its processes at chosen moments."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from typing import Any

from waiting import wait_until

from calvin_eval.console.display import QuietDisplay
from calvin_eval.results.schema import ChainRecord

OnEvent = Callable[[Any, int], object]
"""Called with the engine and a worker's number, in the engine's own thread."""


class EngineWatch(QuietDisplay):
    """Sees everything. No chain begins before every worker is ready for one.

    Without that, a worker that starts late on a busy machine would find no chain left.

    Args:
        on_progress: called whenever a worker gets a chain and when it reports steps.
        on_record: called when a chain has its record.

    Attributes:
        engine: the engine that is watched; whoever makes it sets this before the run.
        notes: everything that the run said.
        workers: the numbers of those that got a chain.
        silence: the longest time in seconds for which a worker with a chain was not heard.
    """

    def __init__(
        self, on_progress: OnEvent | None = None, on_record: OnEvent | None = None
    ) -> None:
        self.engine: Any = None
        self.notes: list[str] = []
        self.workers: set[int] = set()
        self.silence = 0.0
        self._heard: dict[int, float] = {}
        self.on_progress, self.on_record = on_progress, on_record

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        if not self.workers:
            wait_until(self._all_ready, "all workers are ready for a chain")
        self.workers.add(worker)
        self._hear(worker, gets_chain=steps == position == 0)
        if self.on_progress is not None:
            self.on_progress(self.engine, worker)

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        self._hear(worker)
        if self.on_record is not None:
            self.on_record(self.engine, worker)

    @property
    def patience(self) -> int:
        """Seconds of silence, on a machine as busy as this one, that only a hang can last."""
        return math.ceil(max(3.0, 10 * self.silence))

    def _hear(self, worker: int, *, gets_chain: bool = False) -> None:
        now = time.monotonic()
        if not gets_chain:
            self.silence = max(self.silence, now - self._heard.get(worker, now))
        self._heard[worker] = now

    def _all_ready(self) -> bool:
        """Whether everybody said so; who was not heard yet has it waiting in the line.

        An engine that runs chains in this process has no workers.
        """
        waiting = [slot for slot in getattr(self.engine, "slots", ()) if not slot.ready]
        return all(wait([slot.worker.connection], 0) for slot in waiting)


def once_at_work(workers: int, then: Callable[[Any], object]) -> OnEvent:
    """For `on_progress`: call `then` with the engine once, when so many workers are at work."""
    seen: set[int] = set()
    called: list[bool] = []

    def act(engine: Any, worker: int) -> None:
        seen.add(worker)
        if len(seen) >= workers and not called:
            called.append(True)
            then(engine)

    return act
