"""The engine for one machine: simulator processes that share a queue of chains.

A chain's record depends on nothing but the chain and the policy, so it does not matter which
worker runs it, when, or how often one dies on the way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Protocol

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.chain import Outcome
from calvin_eval.rollouts.hosts import FixedPolicy, PolicyHost
from calvin_eval.rollouts.interrupts import heard_interrupts
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.worker import (
    Assigned,
    Assignment,
    Broken,
    Finished,
    Job,
    Lost,
    Progress,
    worker_environment,
)
from calvin_eval.sim.chains import Chain

_TICK = 0.5  # seconds between looks at the clock
_STARTS = 3  # times that a worker may die before it has run anything
_START_SECONDS = 600.0  # that a worker may take to be ready, however short a step may be


@dataclass(frozen=True, kw_only=True)
class FaultRules:
    """What is done about faults.

    Attributes:
        retries: times that a chain is tried again after a crash or a hang.
        step_timeout: seconds without a sign of life after which a worker counts as hanging.
        max_errors: error records after which no more chains are begun; never if None.
    """

    retries: int = 2
    step_timeout: float = 600.0
    max_errors: int | None = None


class Watcher(Protocol):
    """Who is told how a run goes."""

    @property
    def done(self) -> bool:
        """Whether enough is known: no more chains have to be begun."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """A worker took steps in a subtask of a chain."""

    def finished(self, worker: int, outcome: Outcome, inference: float) -> None:
        """A chain has its record; called in the engine's own thread, one at a time."""

    def note(self, text: str) -> None:
        """Something happened that a reader of the log should know."""


@dataclass
class WorkerSlot:
    """The process of worker `number`, which another may replace.

    `serial` numbers the messages to it; an answer to any but the last one comes too late to mean
    anything.
    """

    number: int
    host: int
    child: Child
    chain: Chain | None = None
    ready: bool = False
    serial: int = 0
    starts: int = 1
    heard: float = field(default_factory=time.monotonic)


class LocalEngine:
    """N simulator processes on this machine.

    Args:
        workers: how many.
        faults: what is done about faults.

    The processes live until `close`, so that several runs can share them.
    """

    def __init__(self, workers: int, faults: FaultRules) -> None:
        self._count = workers
        self._faults = faults
        self._slots: list[WorkerSlot] = []
        self.interrupted = False

    def run(
        self,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost | FixedPolicy],
        watcher: Watcher,
    ) -> None:
        """Run the chains; every one of them is reported to the watcher, or the run is broken off.

        Args:
            chains: in the order in which they are begun.
            assign: what a worker does that uses the host of that number; asked again whenever a
                host was replaced.
            hosts: the policy's processes; workers are spread over them.
            watcher: is told of everything; an exception of its own ends the run.

        Raises:
            CalvinEvalError: no chain can run (broken assets, workers that die at once).
            KeyboardInterrupt: the second Ctrl-C. After the first, the chains in progress are
                finished and `interrupted` is set.
        """
        _Run(self, chains, assign, hosts, watcher).loop()

    def slots(self, hosts: int) -> list[WorkerSlot]:
        """The workers, started if need be and spread over the hosts."""
        while len(self._slots) < self._count:
            number = len(self._slots)
            self._slots.append(WorkerSlot(number, number % hosts, self._spawn()))
        for slot in self._slots:
            slot.host, slot.ready, slot.chain = slot.number % hosts, False, None
        return self._slots

    def slots_of(self, host: int) -> list[WorkerSlot]:
        """The workers that use this host."""
        return [slot for slot in self._slots if slot.host == host]

    def respawn(self, slot: WorkerSlot) -> None:
        """Put a new process into a slot."""
        slot.child.kill()
        slot.child, slot.ready, slot.chain = self._spawn(), False, None

    def _spawn(self) -> Child:
        return Child("calvin_eval.rollouts.worker", worker_environment(self._count))

    @property
    def faults(self) -> FaultRules:
        """What is done about faults."""
        return self._faults

    def close(self) -> None:
        """End all processes."""
        for slot in self._slots:
            slot.child.connection.close()  # all at once: they end side by side
        for slot in self._slots:
            slot.child.stop()
        self._slots.clear()


class _Run:
    """One call of `LocalEngine.run`."""

    def __init__(
        self,
        engine: LocalEngine,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost | FixedPolicy],
        watcher: Watcher,
    ) -> None:
        self._engine = engine
        self._faults = engine.faults
        self._assign = assign
        self._hosts = hosts
        self._watcher = watcher
        self._queue = deque(chains)
        # Chains that were in progress when a policy's process died. One of them may have killed
        # it, so each runs alone next time, and the blame falls where it belongs.
        self._suspects: deque[Chain] = deque()
        self._attempts: dict[int, int] = {}
        self._errors = 0
        self._stopping = False

    def loop(self) -> None:
        slots = self._engine.slots(len(self._hosts))
        for slot in slots:
            self._brief(slot)
        with self._interruptible():
            while self._queue or self._suspects or any(slot.chain for slot in slots):
                self._dispatch(slots)
                if self._ending and not any(slot.chain for slot in slots):
                    return
                lines = {slot.child.connection: slot for slot in slots}
                for line in wait(list(lines), timeout=_TICK):
                    self._hear(lines[line])  # type: ignore[index]
                self._check_clock(slots)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._watcher.done

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Finish the chains in progress at the first Ctrl-C, stop at once at the second."""

        def stop(number: int, frame: object) -> None:
            if self._stopping:
                raise KeyboardInterrupt
            self._stopping = self._engine.interrupted = True
            self._watcher.note("stopping after the chains in progress; Ctrl-C again stops now")

        with heard_interrupts(stop):
            yield

    def _dispatch(self, slots: Sequence[WorkerSlot]) -> None:
        if self._ending:
            return
        for slot in slots:
            if not slot.ready or slot.chain is not None:
                continue
            alone = not any(other.chain for other in slots)
            if self._suspects:
                if not alone:
                    return
                self._give(slot, self._suspects.popleft())
                return
            if self._queue:
                self._give(slot, self._queue.popleft())

    def _give(self, slot: WorkerSlot, chain: Chain) -> None:
        slot.chain, slot.heard = chain, time.monotonic()
        self._watcher.progress(slot.number, chain.id, 0, 0)
        self._send(slot, Job(chain=chain))

    def _brief(self, slot: WorkerSlot) -> None:
        slot.ready, slot.heard = False, time.monotonic()
        self._send(slot, self._assign(slot.host))

    def _send(self, slot: WorkerSlot, message: object) -> None:
        slot.serial += 1
        try:
            slot.child.connection.send((slot.serial, message))
        except OSError:
            self._worker_died(slot)

    def _hear(self, slot: WorkerSlot) -> None:
        try:
            serial, message = slot.child.connection.recv()
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
        elif isinstance(message, Lost):
            self._chain_lost(slot, message.reason)

    def _finish(self, slot: WorkerSlot, message: Finished) -> None:
        chain, slot.chain = slot.chain, None
        assert chain is not None
        last = max(len(message.outcome.record.subtasks) - 1, 0)
        self._watcher.progress(slot.number, chain.id, last, message.steps)
        self._record(slot.number, message.outcome, message.inference)

    def _record(self, worker: int, outcome: Outcome, inference: float = 0.0) -> None:
        self._watcher.finished(worker, outcome, inference)
        self._errors += outcome.record.status == "error"
        most = self._faults.max_errors
        if most is not None and self._errors >= most and not self._stopping:
            self._stopping = True
            self._watcher.note(f"stopping: {self._errors} chains ended by an error (--max-errors)")

    def _worker_died(self, slot: WorkerSlot) -> None:
        death = slot.child.exit_report()
        chain, slot.starts = slot.chain, slot.starts + 1
        if chain is None and slot.starts > _STARTS:
            raise CalvinEvalError(
                f"simulator worker {slot.number} died {_STARTS} times before it could run a "
                f"chain: {death}"
            )
        self._engine.respawn(slot)
        self._brief(slot)
        if chain is not None:
            self._try_again(slot.number, chain, f"simulator worker died: {death}", self._queue)

    def _chain_lost(self, slot: WorkerSlot, reason: str) -> None:
        """A worker is well but could not finish: usually its policy's process is gone."""
        chain, slot.chain = slot.chain, None
        host = self._hosts[slot.host]
        if host.alive:  # replaced already for another worker, or the fault is the worker's own
            self._brief(slot)
        else:
            reason = self._replace_host(slot.host)
        if chain is not None:
            self._try_again(slot.number, chain, reason, self._suspects)

    def _replace_host(self, number: int) -> str:
        """A new policy process, which all its workers are told of; returns how the old one died.

        Workers in the middle of a chain find out by themselves and are told then.
        """
        death = f"policy process died: {self._hosts[number].replace()}"
        self._watcher.note(f"{death.splitlines()[0]}; started another")
        for slot in self._engine.slots_of(number):
            if slot.chain is None:
                self._brief(slot)
        return death

    def _try_again(self, worker: int, chain: Chain, reason: str, queue: deque[Chain]) -> None:
        attempts = self._attempts[chain.id] = self._attempts.get(chain.id, 0) + 1
        if attempts <= self._faults.retries:
            self._watcher.note(f"chain {chain.id}: {reason.splitlines()[0]}; trying again")
            queue.appendleft(chain)
            return
        record = ChainRecord(
            chain=chain.id,
            initial_state=dict(chain.initial_state),
            tasks=chain.tasks,
            subtasks=(),
            status="error",
            error=f"given up after {attempts} attempts: {reason}",
        )
        self._record(worker, Outcome(record=record, actions=(), seconds={}))

    def _check_clock(self, slots: Sequence[WorkerSlot]) -> None:
        """Replace workers, or their policy's process, that gave no sign of life for too long."""
        limit = self._faults.step_timeout
        for slot in slots:
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
            self._engine.respawn(slot)
            self._brief(slot)
            reason = f"{where} hung: no progress for {limit:g} s (--step-timeout)"
            self._try_again(slot.number, chain, reason, self._suspects)

    def _check_start(self, slot: WorkerSlot) -> None:
        """Replace a worker that never gets ready. Imports and a world to build are no steps."""
        limit = max(self._faults.step_timeout, _START_SECONDS)
        if self._silent(slot, limit):
            self._watcher.note(
                f"simulator worker {slot.number} was not ready after {limit:g} s; started another"
            )
            self._engine.respawn(slot)
            self._brief(slot)

    @staticmethod
    def _silent(slot: WorkerSlot, limit: float) -> bool:
        """Whether nothing came for so long, and nothing that came meanwhile is still unread."""
        late = time.monotonic() - slot.heard >= limit
        return late and not wait([slot.child.connection], timeout=0)
