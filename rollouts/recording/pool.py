"""Several processes that record; one that dies costs its episode, which is recorded again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.recording.episode import Episode
from calvin_eval.rollouts.recording.plan import EpisodePlan
from calvin_eval.rollouts.recording.worker import Recorder, Studio
from calvin_eval.rollouts.worker import worker_environment

_ATTEMPTS = 3


def record_all(
    studio: Studio, plans: Sequence[EpisodePlan], workers: int
) -> Iterator[tuple[EpisodePlan, Episode]]:
    """Record episodes, in the order in which they are finished.

    Args:
        studio: what to record them with.
        plans: which.
        workers: processes; 0 records in this one.

    Raises:
        CalvinEvalError: the simulator or the policy cannot go on, or an episode kills every
            process that tries it.
    """
    if workers == 0:
        recorder = Recorder(studio)
        try:
            for plan in plans:
                yield plan, recorder.record(plan)
        finally:
            recorder.close()
        return
    yield from _Pool(studio, plans, workers).run()


class _Pool:
    def __init__(self, studio: Studio, plans: Sequence[EpisodePlan], workers: int) -> None:
        self._studio = studio
        self._queue = deque(plans)
        self._workers = min(workers, len(plans))
        self._seats: dict[Any, tuple[Child, EpisodePlan]] = {}
        self._attempts: Counter[tuple[str, int]] = Counter()

    def run(self) -> Iterator[tuple[EpisodePlan, Episode]]:
        try:
            for _ in range(self._workers):
                self._begin(None)
            while self._seats:
                for line in wait(list(self._seats)):
                    child, plan = self._seats.pop(line)
                    episode = self._answer(child, plan)
                    if episode is None:
                        self._queue.appendleft(plan)
                    self._begin(child if episode is not None else None)
                    if episode is not None:
                        yield plan, episode
        finally:
            for child, _ in self._seats.values():
                child.kill()

    def _begin(self, child: Child | None) -> None:
        """Give the next episode to a process, a new one if there is none."""
        if not self._queue:
            if child is not None:
                child.stop()
            return
        messages: list[object] = [self._queue.popleft()]
        plan = messages[0]
        assert isinstance(plan, EpisodePlan)
        if child is None:
            environment = worker_environment(self._workers)
            child = Child("calvin_eval.rollouts.recording.worker", environment)
            messages.insert(0, self._studio)
        self._seats[child.connection] = child, plan
        with suppress(OSError):  # it died: its line says so when it is read
            for message in messages:
                child.connection.send(message)

    def _answer(self, child: Child, plan: EpisodePlan) -> Episode | None:
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            key = plan.split, plan.number
            self._attempts[key] += 1
            death = child.obituary()
            child.kill()
            if self._attempts[key] == _ATTEMPTS:
                raise CalvinEvalError(
                    f"{plan.split} episode {plan.number}: the process that recorded it died "
                    f"{_ATTEMPTS} times: {death}"
                ) from None
            return None
        if isinstance(answer, CalvinEvalError):
            child.kill()
            raise answer
        assert isinstance(answer, Episode)
        return answer
