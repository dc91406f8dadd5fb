"""The supervisor of simulator workers: they share a queue of chains, and may hang or die.

A chain's record depends on nothing but the chain and the policy, so it does not matter which
worker runs it, when, or how often one dies on the way. What a worker is, a process or an actor,
is known to `slots.Workers` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.attempts import ChainQueue
from calvin_eval.rollouts.chain import ChainOutcome
from calvin_eval.rollouts.engine import FaultRules, Watcher
from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.interrupts import heard_interrupts
from calvin_eval.rollouts.slots import Workers, WorkerSlot
from calvin_eval.rollouts.worker import (
    Assigned,
    Assignment,
    Broken,
    ChainLost,
    Finished,
    Progress,
    RunChain,
)
from calvin_eval.sim.chains import Chain

_TICK = 0.5  # seconds between looks at the clock
_STARTS = 3  # times that a worker may die before it has run anything
_START_SECONDS = 600.0  # that a worker may take to be ready, however short a step may be


class SupervisedEngine:
    """Workers that share a queue of chains and are replaced when they hang or die; an `Engine`.

    Args:
        workers: starts them; they live until `close`, so that several runs can share them.
        faults: what is done about faults.

    Attributes:
        slots: where the workers are; empty before the first run.
        interrupted: whether the user asked for the end.
    """

    def __init__(self, workers: Workers, faults: FaultRules) -> None:
        self._workers = workers
        self._faults = faults
        self.slots: list[WorkerSlot] = []
        self.interrupted = False

    def run(
        self,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost],
        watcher: Watcher,
    ) -> None:
        """Run chains, see `Engine.run`."""
        self._workers.check(hosts, watcher.note)
        self._fill_slots(len(hosts))
        supervisor = Supervisor(self.slots, self._workers, self._faults, assign, hosts, watcher)
        try:
            supervisor.run(chains)
        finally:
            self.interrupted |= supervisor.interrupted

    def _fill_slots(self, hosts: int) -> None:
        """Start the workers, if need be, and spread them over the hosts."""
        while len(self.slots) < self._workers.count:
            number = len(self.slots)
            self.slots.append(WorkerSlot(number, number % hosts, self._workers.spawn()))
        for slot in self.slots:
            slot.host, slot.ready, slot.chain = slot.number % hosts, False, None

    def close(self) -> None:
        """End all workers."""
        for slot in self.slots:
            slot.worker.connection.close()  # all at once: they end side by side
        for slot in self.slots:
            slot.worker.stop()
        self.slots.clear()


class Supervisor:
    """One run: gives chains to workers, tries them again after faults, and watches the clock.

    Args:
        slots: the workers, started.
        workers: replaces them.
        faults: what is done about faults.
        assign: see `Engine.run`, as are `hosts` and `watcher`.

    Attributes:
        interrupted: whether the user asked for the end.
    """

    def __init__(
        self,
        slots: Sequence[WorkerSlot],
        workers: Workers,
        faults: FaultRules,
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost],
        watcher: Watcher,
    ) -> None:
        self._slots = slots
        self._workers = workers
        self._faults = faults
        self._assign = assign
        self._hosts = hosts
        self._watcher = watcher
        self._queue = ChainQueue((), faults.retries)
        self._errors = 0
        self._stopping = False
        self.interrupted = False

    def run(self, chains: Sequence[Chain]) -> None:
        """Run chains until all have records or the run ends early; raises as `Engine.run`."""
        self._queue = ChainQueue(chains, self._faults.retries)
        for slot in self._slots:
            self._brief(slot)
        with self._interruptible():
            while self._queue or self._busy:
                self._dispatch()
                if self._ending and not self._busy:
                    return
                lines: dict[Any, WorkerSlot] = {s.worker.connection: s for s in self._slots}
                for line in wait(list(lines), timeout=_TICK):
                    self._receive(lines[line])
                self._check_clock()

    @property
    def _busy(self) -> bool:
        return any(slot.chain for slot in self._slots)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._watcher.done

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Finish the chains in progress at the first Ctrl-C, stop at once at the second."""

        def stop(number: int, frame: object) -> None:
            if self._stopping:
                raise KeyboardInterrupt
            self._stopping = self.interrupted = True
            self._watcher.note("stopping after the chains in progress; Ctrl-C again stops now")

        with heard_interrupts(stop):
            yield

    def _dispatch(self) -> None:
        if self._ending or any(slot.chain and slot.alone for slot in self._slots):
            return
        for slot in self._slots:
            if not slot.ready or slot.chain is not None:
                continue
            if self._queue.suspects:
                if not self._busy:
                    self._give(slot, self._queue.suspects.popleft(), alone=True)
                return
            if self._queue.waiting:
                self._give(slot, self._queue.waiting.popleft())

    def _give(self, slot: WorkerSlot, chain: Chain, *, alone: bool = False) -> None:
        slot.chain, slot.alone, slot.heard = chain, alone, time.monotonic()
        self._watcher.progress(slot.number, chain.id, 0, 0)
        self._send(slot, RunChain(chain=chain))

    def _brief(self, slot: WorkerSlot) -> None:
        slot.ready, slot.heard = False, time.monotonic()
        self._send(slot, self._workers.adapt(self._assign(slot.host)))

    def _respawn(self, slot: WorkerSlot) -> None:
        """Put a new worker into a slot."""
        slot.worker = self._workers.replace(slot.worker, self._hosts[slot.host])
        slot.chain = None
        self._brief(slot)

    def _send(self, slot: WorkerSlot, message: object) -> None:
        slot.serial += 1
        try:
            slot.worker.connection.send((slot.serial, message))
        except OSError:
            self._worker_died(slot)

    def _receive(self, slot: WorkerSlot) -> None:
        try:
            serial, message = slot.worker.connection.recv()
        except (EOFError, OSError):
            self._worker_died(slot)
            return
        slot.heard = time.monotonic()
        if serial != slot.serial:
            return
        if isinstance(message, Broken):
            raise message.error
        if isinstance(message, Assigned):
            slot.ready, slot.starts = True, 0
        elif isinstance(message, Progress) and slot.chain is not None:
            self._watcher.progress(slot.number, slot.chain.id, message.position, message.steps)
        elif isinstance(message, Finished):
            self._finish(slot, message)
        elif isinstance(message, ChainLost):
            self._chain_lost(slot, message.reason)

    def _finish(self, slot: WorkerSlot, message: Finished) -> None:
        chain, slot.chain = slot.chain, None
        assert chain is not None
        last = max(len(message.outcome.record.subtasks) - 1, 0)
        self._watcher.progress(slot.number, chain.id, last, message.steps)
        outcome = message.outcome.quoting(self._hosts[slot.host].printed())
        self._record(slot.number, outcome, message.inference)

    def _record(self, worker: int, outcome: ChainOutcome, inference: float = 0.0) -> None:
        self._watcher.finished(worker, outcome, inference)
        self._errors += outcome.record.status == "error"
        most = self._faults.max_errors
        if most is not None and self._errors >= most and not self._stopping:
            self._stopping = True
            self._watcher.note(f"stopping: {self._errors} chains ended by an error (--max-errors)")

    def _worker_died(self, slot: WorkerSlot) -> None:
        death = slot.worker.exit_report()
        chain, slot.starts = slot.chain, slot.starts + 1
        if chain is None and slot.starts > _STARTS:
            raise CalvinEvalError(
                f"simulator worker {slot.number} died {_STARTS} times before it could run a "
                f"chain: {death}"
            )
        self._respawn(slot)
        if chain is not None:
            reason = f"simulator worker died: {death}"
            self._try_again(slot.number, chain, reason, suspect=False)

    def _chain_lost(self, slot: WorkerSlot, reason: str) -> None:
        """A worker is well but could not finish: usually its policy's process is gone."""
        chain, slot.chain = slot.chain, None
        host = self._hosts[slot.host]
        if host.alive:  # replaced already for another worker, or the fault is the worker's own
            self._brief(slot)
        else:
            reason = self._replace_host(slot.host)
        if chain is not None:
            self._try_again(slot.number, chain, reason, suspect=True)

    def _replace_host(self, number: int) -> str:
        """Start a new policy process; returns how the old one died.

        Its idle workers get a new assignment at once; one in the middle of a chain gets it when
        it reports that its policy is lost.
        """
        death = f"policy process died: {self._hosts[number].replace()}"
        self._watcher.note(f"{death.splitlines()[0]}; started another")
        for slot in self._slots:
            if slot.host == number and slot.chain is None:
                self._brief(slot)
        return death

    def _try_again(self, worker: int, chain: Chain, reason: str, *, suspect: bool) -> None:
        outcome = self._queue.put_back(chain, reason, suspect=suspect)
        if outcome is None:
            self._watcher.note(f"chain {chain.id}: {reason.splitlines()[0]}; trying again")
        else:
            self._record(worker, outcome)

    def _check_clock(self) -> None:
        """Replace workers, or their policy's process, that sent nothing for too long."""
        limit = self._faults.step_timeout
        for slot in self._slots:
            if not slot.ready:
                self._check_start(slot)
                continue
            if slot.chain is None or not self._silent(slot, limit):
                continue
            chain, slot.chain = slot.chain, None
            where = "simulator worker"
            if self._hosts[slot.host].hangs(limit / 2):
                where = "policy"
                self._replace_host(slot.host)
            self._respawn(slot)
            reason = f"{where} hung: no progress for {limit:g} s (--step-timeout)"
            self._try_again(slot.number, chain, reason, suspect=True)

    def _check_start(self, slot: WorkerSlot) -> None:
        """Replace a worker that never gets ready. Imports and a world to build are no steps."""
        limit = max(self._faults.step_timeout, _START_SECONDS)
        if self._silent(slot, limit):
            self._watcher.note(
                f"simulator worker {slot.number} was not ready after {limit:g} s; started another"
            )
            self._respawn(slot)

    @staticmethod
    def _silent(slot: WorkerSlot, limit: float) -> bool:
        """Whether nothing came for so long, and nothing that came meanwhile is still unread."""
        line: Any = slot.worker.connection  # `wait` takes whatever has a file descriptor
        late = time.monotonic() - slot.heard >= limit
        return late and not wait([line], timeout=0)
