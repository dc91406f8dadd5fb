"""The engine for one machine: simulator processes that share a queue of chains.

A chain's record depends on nothing but the chain and the policy, so it does not matter which
worker runs it, when, or how often one dies on the way.
"""

from __future__ import annotations

import signal
import threading
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
class _Seat:
    """One worker's place: the process may change, the number stays.

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
        self._seats: list[_Seat] = []
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

    def seats(self, hosts: int) -> list[_Seat]:
        """The workers, started if need be and spread over the hosts."""
        while len(self._seats) < self._count:
            number = len(self._seats)
            self._seats.append(_Seat(number, number % hosts, self._spawn()))
        for seat in self._seats:
            seat.host, seat.ready, seat.chain = seat.number % hosts, False, None
        return self._seats

    def seats_of(self, host: int) -> list[_Seat]:
        """The workers that use this host."""
        return [seat for seat in self._seats if seat.host == host]

    def respawn(self, seat: _Seat) -> None:
        """Put a new process into a seat."""
        seat.child.kill()
        seat.child, seat.ready, seat.chain = self._spawn(), False, None

    def _spawn(self) -> Child:
        return Child("calvin_eval.rollouts.worker", worker_environment(self._count))

    @property
    def faults(self) -> FaultRules:
        """What is done about faults."""
        return self._faults

    def close(self) -> None:
        """End all processes."""
        for seat in self._seats:
            seat.child.connection.close()  # all at once: they end side by side
        for seat in self._seats:
            seat.child.stop()
        self._seats.clear()


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
        seats = self._engine.seats(len(self._hosts))
        for seat in seats:
            self._brief(seat)
        with self._interruptible():
            while self._queue or self._suspects or any(seat.chain for seat in seats):
                self._dispatch(seats)
                if self._ending and not any(seat.chain for seat in seats):
                    return
                lines = {seat.child.connection: seat for seat in seats}
                for line in wait(list(lines), timeout=_TICK):
                    self._hear(lines[line])  # type: ignore[index]
                self._check_clock(seats)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._watcher.done

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Finish the chains in progress at the first Ctrl-C, stop at once at the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if self._stopping:
                raise KeyboardInterrupt
            self._stopping = self._engine.interrupted = True
            self._watcher.note("stopping after the chains in progress; Ctrl-C again stops now")

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _dispatch(self, seats: Sequence[_Seat]) -> None:
        if self._ending:
            return
        for seat in seats:
            if not seat.ready or seat.chain is not None:
                continue
            alone = not any(other.chain for other in seats)
            if self._suspects:
                if not alone:
                    return
                self._give(seat, self._suspects.popleft())
                return
            if self._queue:
                self._give(seat, self._queue.popleft())

    def _give(self, seat: _Seat, chain: Chain) -> None:
        seat.chain, seat.heard = chain, time.monotonic()
        self._watcher.progress(seat.number, chain.id, 0, 0)
        self._send(seat, Job(chain=chain))

    def _brief(self, seat: _Seat) -> None:
        seat.ready, seat.heard = False, time.monotonic()
        self._send(seat, self._assign(seat.host))

    def _send(self, seat: _Seat, message: object) -> None:
        seat.serial += 1
        try:
            seat.child.connection.send((seat.serial, message))
        except OSError:
            self._worker_died(seat)

    def _hear(self, seat: _Seat) -> None:
        try:
            serial, message = seat.child.connection.recv()
        except (EOFError, OSError):
            self._worker_died(seat)
            return
        seat.heard = time.monotonic()
        if serial != seat.serial:
            return
        if isinstance(message, Broken):
            raise message.error
        if isinstance(message, Assigned):
            seat.ready, seat.starts = True, 0
        elif isinstance(message, Progress) and seat.chain is not None:
            self._watcher.progress(seat.number, seat.chain.id, message.position, message.steps)
        elif isinstance(message, Finished):
            self._finish(seat, message)
        elif isinstance(message, Lost):
            self._chain_lost(seat, message.reason)

    def _finish(self, seat: _Seat, message: Finished) -> None:
        chain, seat.chain = seat.chain, None
        assert chain is not None
        last = max(len(message.outcome.record.subtasks) - 1, 0)
        self._watcher.progress(seat.number, chain.id, last, message.steps)
        self._record(seat.number, message.outcome, message.inference)

    def _record(self, worker: int, outcome: Outcome, inference: float = 0.0) -> None:
        self._watcher.finished(worker, outcome, inference)
        self._errors += outcome.record.status == "error"
        most = self._faults.max_errors
        if most is not None and self._errors >= most and not self._stopping:
            self._stopping = True
            self._watcher.note(f"stopping: {self._errors} chains ended by an error (--max-errors)")

    def _worker_died(self, seat: _Seat) -> None:
        death = seat.child.obituary()
        chain, seat.starts = seat.chain, seat.starts + 1
        if chain is None and seat.starts > _STARTS:
            raise CalvinEvalError(
                f"simulator worker {seat.number} died {_STARTS} times before it could run a "
                f"chain: {death}"
            )
        self._engine.respawn(seat)
        self._brief(seat)
        if chain is not None:
            self._try_again(seat.number, chain, f"simulator worker died: {death}", self._queue)

    def _chain_lost(self, seat: _Seat, reason: str) -> None:
        """A worker is well but could not finish: usually its policy's process is gone."""
        chain, seat.chain = seat.chain, None
        host = self._hosts[seat.host]
        if host.alive:  # replaced already for another worker, or the fault is the worker's own
            self._brief(seat)
        else:
            reason = self._replace_host(seat.host)
        if chain is not None:
            self._try_again(seat.number, chain, reason, self._suspects)

    def _replace_host(self, number: int) -> str:
        """A new policy process, which all its workers are told of; returns how the old one died.

        Workers in the middle of a chain find out by themselves and are told then.
        """
        death = f"policy process died: {self._hosts[number].replace()}"
        self._watcher.note(f"{death.splitlines()[0]}; started another")
        for seat in self._engine.seats_of(number):
            if seat.chain is None:
                self._brief(seat)
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

    def _check_clock(self, seats: Sequence[_Seat]) -> None:
        """Replace workers, or their policy's process, that gave no sign of life for too long."""
        limit = self._faults.step_timeout
        for seat in seats:
            if not seat.ready:
                self._check_start(seat)
                continue
            if seat.chain is None or not self._silent(seat, limit):
                continue
            chain, seat.chain = seat.chain, None
            where = "simulator worker"
            if self._hosts[seat.host].hangs(limit / 2):
                where = "policy"
                self._replace_host(seat.host)
            self._engine.respawn(seat)
            self._brief(seat)
            reason = f"{where} hung: no progress for {limit:g} s (--step-timeout)"
            self._try_again(seat.number, chain, reason, self._suspects)

    def _check_start(self, seat: _Seat) -> None:
        """Replace a worker that never gets ready. Imports and a world to build are no steps."""
        limit = max(self._faults.step_timeout, _START_SECONDS)
        if self._silent(seat, limit):
            self._watcher.note(
                f"simulator worker {seat.number} was not ready after {limit:g} s; started another"
            )
            self._engine.respawn(seat)
            self._brief(seat)

    @staticmethod
    def _silent(seat: _Seat, limit: float) -> bool:
        """Whether nothing came for so long, and nothing that came meanwhile is still unread."""
        late = time.monotonic() - seat.heard >= limit
        return late and not wait([seat.child.connection], timeout=0)
