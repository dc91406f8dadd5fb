"""Simulator workers as their supervisor sees them: processes and actors behind one interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.worker import Assignment
from calvin_eval.sim.chains import Chain


class Line(Protocol):
    """The supervisor's end of the line to a worker; `multiprocessing.connection.wait` takes it."""

    def fileno(self) -> int:
        """A file descriptor, readable when there is something to receive or the worker is gone."""

    def send(self, message: Any, /) -> None:
        """Send a picklable object; OSError may tell that the worker is gone."""

    def recv(self) -> Any:
        """The worker's next message; EOFError or OSError when it is gone."""

    def close(self) -> None:
        """Close the line, which asks a process to end."""


class RunningWorker(Protocol):
    """A simulator worker that was started: `processes.Child`, or an actor."""

    @property
    def connection(self) -> Line:
        """The line to it."""

    def exit_report(self) -> str:
        """How it ended, and what it printed last; only for one that is gone."""

    def kill(self) -> None:
        """End it at once; a second call does nothing."""

    def stop(self, seconds: float = 5.0) -> None:
        """End it, and wait for its end."""


class Workers(Protocol):
    """Starts simulator workers.

    Attributes:
        count: how many work side by side.
    """

    count: int

    def check(self, hosts: Sequence[PolicyHost], note: Callable[[str], None]) -> None:
        """Before a run: raise UsageError if the workers could not reach the policy."""

    def spawn(self) -> RunningWorker:
        """Start one."""

    def replace(self, old: RunningWorker, host: PolicyHost) -> RunningWorker:
        """End one, dead or stuck, and start another; `host` served the old one."""

    def adapt(self, assignment: Assignment) -> Assignment:
        """The assignment as these workers need it."""


@dataclass
class WorkerSlot:
    """The place of worker `number`, where one worker may follow another.

    Attributes:
        number: from 0.
        host: number of the policy's host that serves it.
        worker: who works there now.
        chain: that it is running.
        alone: whether no other chain may run beside this one.
        ready: whether it can be given a chain.
        serial: numbers the messages to it; an answer to any but the last one is outdated.
        starts: how often a worker was started here since one was last ready.
        heard: when its last message came, on `time.monotonic`.
    """

    number: int
    host: int
    worker: RunningWorker
    chain: Chain | None = None
    alone: bool = False
    ready: bool = False
    serial: int = 0
    starts: int = 1
    heard: float = field(default_factory=time.monotonic)
