"""What a display knows of a run that goes on: counts, rates, speeds and who does what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from calvin_eval.results.intervals import Interval, wilson
from calvin_eval.results.means import mean_interval
from calvin_eval.results.schema import ChainRecord

POSITIONS = 5  # of CALVIN's chains; a list of one's own may have longer ones

_MEMORY = 10.0  # seconds over which a speed is averaged


class Speed:
    """Steps per second over the last ten seconds or so, older ones fading out."""

    def __init__(self) -> None:
        self._seen = 0
        self._steps = self._seconds = 0.0

    def look(self, steps: int, seconds: float) -> None:
        """Take in the steps since the beginning and the seconds since the last look."""
        if not steps:
            return  # loading is not running
        fade = math.exp(-seconds / _MEMORY)
        self._steps = self._steps * fade + steps - self._seen
        self._seconds = self._seconds * fade + seconds
        self._seen = steps

    @property
    def value(self) -> float:
        """Steps per second."""
        return self._steps / self._seconds if self._seconds else 0.0


@dataclass
class WorkerState:
    """What one worker does.

    Attributes:
        chain: the chain that it runs; None between chains and before the first.
        position: subtasks of it that are done.
        steps: in the subtask that goes on.
        chain_steps: in the chain.
        total: since the run began.
        heard: when it last reported.
    """

    chain: int | None = None
    position: int = 0
    steps: int = 0
    chain_steps: int = 0
    total: int = 0
    heard: float = 0.0
    speed: Speed = field(default_factory=Speed)


class Tally:
    """Counts of a run.

    Args:
        planned: chains of the run.
        done: those that an earlier run completed; they count for everything but the speed.
        workers: how many there are; 0 means that the caller itself works.
        now: seconds on any clock, the same one for all methods.

    Attributes:
        chains: finished ones, whatever their outcome.
        completed: those that ended by success or failure: only they count for the rates.
        errors: those that ended by an error.
        steps: environment steps since the run began.
        workers: by number.
    """

    def __init__(
        self, planned: int = 0, done: Sequence[ChainRecord] = (), workers: int = 0, now: float = 0.0
    ) -> None:
        self.planned = planned
        self.began = self._looked = now
        self.chains = self.completed = self.errors = self.steps = 0
        self.workers = {number: WorkerState(heard=now) for number in range(max(workers, 1))}
        self.speed = Speed()
        self._first: float | None = None
        self._recorded_steps = 0
        self._lengths: Counter[int] = Counter()
        self._successes: list[int] = []
        self._attempts: list[int] = []
        for record in done:
            self.add(record)

    def progress(self, worker: int, chain: int, position: int, steps: int, now: float) -> None:
        """Count steps of a worker; without any steps, the chain has just been begun."""
        state = self.workers.get(worker)
        if state is None:
            state = self.workers[worker] = WorkerState()
        if chain != state.chain or not steps:
            state.chain, state.position, state.steps, state.chain_steps = chain, position, 0, 0
        elif position != state.position:
            state.position, state.steps = position, 0
        state.steps += steps
        state.chain_steps += steps
        state.total += steps
        state.heard = now
        self.steps += steps
        if self._first is None:
            self._first = now

    def record(self, worker: int, record: ChainRecord, now: float) -> None:
        """Count a chain that a worker has finished."""
        self.add(record)
        state = self.workers.setdefault(worker, WorkerState())
        state.chain, state.heard = None, now

    def add(self, record: ChainRecord) -> None:
        """Count a chain."""
        self.chains += 1
        if record.status == "error":
            self.errors += 1
            return
        length, tasks = record.length, len(record.tasks)
        self.completed += 1
        self._recorded_steps += sum(subtask.steps for subtask in record.subtasks)
        self._lengths[length] += 1
        missing = tasks - self.longest
        self._attempts += [0] * missing
        self._successes += [0] * missing
        for i in range(tasks):
            self._attempts[i] += 1
            self._successes[i] += i < length

    def look(self, now: float) -> None:
        """Bring the speeds up to date; called a few times a second."""
        seconds, self._looked = now - self._looked, now
        self.speed.look(self.steps, seconds)
        for state in self.workers.values():
            state.speed.look(state.total, seconds)

    @property
    def longest(self) -> int:
        """Tasks of the longest chain that counts so far."""
        return len(self._attempts)

    def rates(self) -> list[tuple[float, Interval]]:
        """Per 1.. tasks in a row the success rate with Wilson's 95 % interval, as in the result."""
        counts = zip(self._successes, self._attempts, strict=True)
        return [(success / total, wilson(success, total)) for success, total in counts]

    def length(self) -> tuple[float, Interval] | None:
        """The average length so far and its 95 % interval, as in the result; None before any."""
        if not self.completed:
            return None
        lengths = list(self._lengths.elements())
        return sum(lengths) / len(lengths), mean_interval(lengths, (0, self.longest))

    def seconds(self, now: float) -> float:
        """Since the run began."""
        return max(now - self.began, 0.0)

    def average_speed(self, now: float) -> float:
        """Steps per second since the first one, so without the time that loading took."""
        if self._first is None or now <= self._first:
            return 0.0
        return self.steps / (now - self._first)

    def seconds_left(self, now: float) -> float | None:
        """How long the rest will take; None while nothing can be said.

        Measured in steps and not in chains: a good policy's chains take longer, so the first
        ones to finish are the bad ones, and a worker's half chain counts as half.
        """
        speed = self.average_speed(now)
        if not speed or not self._recorded_steps:
            return None
        per_chain = self._recorded_steps / self.completed
        begun = sum(
            min(state.chain_steps, per_chain)
            for state in self.workers.values()
            if state.chain is not None
        )
        left = (self.planned - self.chains) * per_chain - begun
        return max(left, 0.0) / speed
