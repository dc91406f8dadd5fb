"""Worker processes that answer jobs side by side; one that dies costs its job, and is replaced.

For whatever simulates without a policy process: verification, recording. Never imports torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.processes import Child, join_parent
from calvin_eval.rollouts.worker import worker_environment

JobT = TypeVar("JobT")
AnswerT = TypeVar("AnswerT")
JobContra = TypeVar("JobContra", contravariant=True)
AnswerCo = TypeVar("AnswerCo", covariant=True)


class JobWorker(Protocol[JobContra, AnswerCo]):
    """What answers jobs, in this process or in one of the pool's."""

    def answer(self, job: JobContra) -> AnswerCo:
        """Do one job.

        Raises:
            CalvinEvalError: no job can be done any more.
        """

    def close(self) -> None:
        """Free what it holds."""


class WorkerPool(Generic[JobT, AnswerT]):
    """Does jobs, and gives their answers in the order in which they are done.

    Args:
        build: makes a worker of `setup`; it and `setup` are pickled.
        setup: what a worker needs for any job.
        workers: processes; 0 works in this one.
        died: is asked for the answer to a job whose process died, given how it did; None has the
            job done again. What it raises ends the work.
    """

    def __init__(
        self,
        build: Callable[[Any], JobWorker[JobT, AnswerT]],
        setup: object,
        workers: int,
        died: Callable[[JobT, str], AnswerT | None],
    ) -> None:
        self._build, self._setup = build, setup
        self._workers, self._died = workers, died
        self._busy: dict[Any, tuple[Child, JobT]] = {}
        self._again: deque[JobT] = deque()

    def run(self, jobs: Iterable[JobT]) -> Iterator[tuple[JobT, AnswerT]]:
        """Do jobs, each taken from `jobs` when a worker is free.

        Raises:
            CalvinEvalError: a worker raised it.
        """
        yield from self._run_here(jobs) if self._workers == 0 else self._run(iter(jobs))

    def _run_here(self, jobs: Iterable[JobT]) -> Iterator[tuple[JobT, AnswerT]]:
        worker: JobWorker[JobT, AnswerT] | None = None
        try:
            for job in jobs:
                worker = worker or self._build(self._setup)
                yield job, worker.answer(job)
        finally:
            if worker is not None:
                worker.close()

    def _run(self, jobs: Iterator[JobT]) -> Iterator[tuple[JobT, AnswerT]]:
        try:
            while len(self._busy) < self._workers and self._begin(jobs, None):
                pass
            while self._busy:
                for line in wait(list(self._busy)):
                    child, job = self._busy.pop(line)
                    answer, living = self._receive(child, job)
                    self._begin(jobs, living)
                    if answer is not None:
                        yield job, answer
        finally:
            for child, _ in self._busy.values():
                child.kill()

    def _begin(self, jobs: Iterator[JobT], child: Child | None) -> bool:
        """Give the next job to a process, a new one if there is none; False if no job is left."""
        try:
            job = self._again.popleft() if self._again else next(jobs)
        except StopIteration:
            if child is not None:
                child.stop()
            return False
        messages: list[object] = [job]
        if child is None:
            child = Child(__name__, worker_environment(self._workers))
            messages.insert(0, (self._build, self._setup))
        self._busy[child.connection] = child, job
        with suppress(OSError):  # it died: its line says so when it is read
            for message in messages:
                child.connection.send(message)
        return True

    def _receive(self, child: Child, job: JobT) -> tuple[AnswerT | None, Child | None]:
        """The answer, unless the job is done again; and the process, unless it died."""
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            how = child.exit_report()
            child.kill()
            instead = self._died(job, how)
            if instead is None:
                self._again.append(job)
            return instead, None
        if isinstance(answer, CalvinEvalError):
            child.kill()
            raise answer
        return answer, child


def main() -> None:
    """Serve the parent that started this process: what builds a worker, then jobs."""
    line: Connection[Any, Any] = join_parent()
    worker: JobWorker[Any, Any] | None = None
    with suppress(EOFError):  # the parent needs no more
        build, setup = line.recv()
        while True:
            job = line.recv()
            try:
                worker = worker or build(setup)
                answer = worker.answer(job)
            except CalvinEvalError as error:
                answer = error
            line.send(answer)
    if worker is not None:
        worker.close()
