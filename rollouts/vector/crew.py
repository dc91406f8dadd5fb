"""The worker processes of a vector environment, and what is still to come from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.vector.messages import Build, Failed, Share
from calvin_eval.rollouts.vector.shared import Field, SharedArrays
from calvin_eval.rollouts.worker import worker_environment

_MODULE = "calvin_eval.rollouts.vector.worker"


class WorldLostError(CalvinEvalError):
    """A worker process of a vector environment is gone, and the worlds that it had with it."""


class Crew:
    """Processes that have the worlds of a vector environment between them.

    Args:
        builds: what each process is to have.

    Attributes:
        builds: as given.
    """

    def __init__(self, builds: Sequence[Build]) -> None:
        self.builds = tuple(builds)
        self._lost = ""
        self._children: list[Child] = []
        for _ in builds:
            self._children.append(Child(_MODULE, worker_environment(len(builds))))
        for worker, build in enumerate(builds):
            self.tell(worker, build)

    def worker_of(self, world: int) -> int:
        """Number of the process that has a world."""
        return next(n for n, build in enumerate(self.builds) if world in build.worlds)

    def check(self) -> None:
        """Raise WorldLostError if a process was found gone."""
        if self._lost:
            raise WorldLostError(self._lost)

    def pids(self) -> tuple[int, ...]:
        """Process ids, in the order of `builds`."""
        return tuple(child.pid for child in self._children)

    def tell(self, worker: int, message: object) -> None:
        """Send a message; whether anybody is there shows when an answer is awaited."""
        with suppress(OSError):
            self._children[worker].connection.send(message)

    def share(self, fields: Mapping[str, Field]) -> dict[str, Any]:
        """Arrays that all processes have from now on."""
        shared = SharedArrays(fields)
        for worker, child in enumerate(self._children):
            self.tell(worker, Share(fields=fields))
            with suppress(OSError):
                shared.give(child.connection, child.pid)
        shared.seal()
        return shared.arrays

    def answers(self, enough: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Numbers of workers and their answers: those that are here, and more until it is enough.

        Raises:
            WorldLostError: a process is gone, now or before.
        """
        self.check()
        lines = {child.connection: worker for worker, child in enumerate(self._children)}
        while ready := wait(list(lines), 0 if enough() else None):
            for line in ready:
                worker = lines[line]  # type: ignore[index]
                yield worker, self._receive(worker)

    def _receive(self, worker: int) -> Any:
        child = self._children[worker]
        try:
            return child.connection.recv()
        except (EOFError, OSError):
            worlds = ", ".join(map(str, self.builds[worker].worlds))
            self._lost = (
                f"the process of worlds {worlds} is gone ({child.exit_report()}). "
                "Close this environment and make a new one."
            )
        raise WorldLostError(self._lost)

    def first_answers(self) -> list[Any]:
        """One answer of every process, in order.

        Raises:
            CalvinEvalError: one of them failed.
        """
        found: dict[int, Any] = {}
        for worker, answer in self.answers(lambda: len(found) == len(self._children)):
            if isinstance(answer, Failed):
                raise answer.error
            found[worker] = answer
        return [found[worker] for worker in sorted(found)]

    def close(self) -> None:
        """End all processes; a second call does nothing."""
        for child in self._children:
            child.connection.close()
        for child in self._children:
            child.stop()
