"""A test that may be looked at after every chain.

Looking at an ordinary confidence interval again and again, and stopping when it suits, is wrong
far more often than the interval says. A confidence sequence is a sequence of intervals that are
all right at once, with the stated confidence; so a run may stop at whatever moment.

The one here is of the betting kind (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 2024). Take x in [0, 1]. Whoever holds that the mean is at most m
offers fair bets on every x; a player who stakes the share u of a capital of 1 on "more" has

    K(u) = product over all x of (1 - u + u * x / m),

a nonnegative supermartingale where the mean is at most m. By Ville's inequality it ever exceeds
1 / a with a chance of at most a: if it does, m is refuted. The same goes for an average of K over
several shares u, and the same for "less" with (1 - x) and (1 - m). Constant shares make capital
a function of how often each value occurred, and monotonic in m: the interval's ends are found by
bisection.

What is assumed: given the chains before, a chain's expected length is the mean. Chains that are
drawn independently fulfil it. The official list was drawn at random and shuffled, and a run takes
it in list order; its thousand chains are distinct, which makes them a little less variable than
independent draws and the test a little cautious. A list that is sorted, say by difficulty, does
not fulfil it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.results.gate_spec import TOP, Check, Decision, GateSpec
from calvin_eval.results.schema import ChainRecord

Counts: TypeAlias = NDArray[np.float64]

METHOD = "betting confidence sequence"

_SHARES = np.geomspace(0.02, 0.95, 24)  # measured: no worse than bets that adapt to the data
_ENDS = 1e-9  # a bound this near to the end of the range is the end


def log_capital(counts: Counts, mean: float) -> Counts:
    """What a player has made of 1 by betting that a mean is greater than this, as a logarithm.

    Args:
        counts: float, shape (..., n): how often each of the values 0, 1/(n-1), ... 1 occurred.
        mean: of the offer, in [0, 1].

    Returns:
        Float, shape (...).
    """
    mean = min(max(mean, _ENDS), 1 - _ENDS)
    values = np.linspace(0, 1, counts.shape[-1])
    stakes = counts @ np.log1p(_SHARES * (values[:, None] / mean - 1))
    most = stakes.max(axis=-1)
    capital: Counts = most + np.log(np.exp(stakes - most[..., None]).mean(axis=-1))
    return capital


class ConfidenceSequence:
    """The mean of whole numbers between two bounds, with an interval that holds at every moment.

    Args:
        bottom: the least possible value.
        top: the greatest.
        level: confidence of the intervals.

    Where a value is not known it counts as the interval of what it may have been: as the least
    for the lower bound, as the greatest for the upper.
    """

    def __init__(self, bottom: int, top: int, level: float) -> None:
        self._bottom, self._span = bottom, top - bottom
        self._wealth = math.log(2 / (1 - level))  # half of the chance of error to either side
        self._lows = np.zeros(self._span + 1)
        self._highs = np.zeros(self._span + 1)
        self._known = self._sum = 0

    def add(self, low: int, high: int | None = None) -> None:
        """Take in the next value, or the least and the greatest that it may have been."""
        high = low if high is None else high
        if not self._bottom <= low <= high <= self._bottom + self._span:
            raise ValueError(
                f"expected values from {self._bottom} to {self._bottom + self._span}, "
                f"found {low} to {high}"
            )
        self._lows[low - self._bottom] += 1
        self._highs[high - self._bottom] += 1
        if low == high:
            self._known += 1
            self._sum += low

    @property
    def seen(self) -> int:
        """How many values there were, known or not."""
        return int(self._lows.sum())

    @property
    def estimate(self) -> float | None:
        """The mean of the known values."""
        return self._sum / self._known if self._known else None

    def side(self, threshold: float) -> int:
        """1 if the interval lies at or above the threshold, -1 if below, else 0; cheap."""
        mean = (threshold - self._bottom) / self._span
        if self._refuted(self._lows, mean):
            return 1
        return -1 if self._refuted(self._highs[::-1], 1 - mean) else 0

    def interval(self) -> tuple[float, float]:
        """The lower and the upper bound of the mean, now."""
        low = self._bound(self._lows)
        high = 1 - self._bound(self._highs[::-1])
        return self._bottom + self._span * low, self._bottom + self._span * high

    def _refuted(self, counts: Counts, mean: float) -> bool:
        return bool(log_capital(counts, mean) >= self._wealth)

    def _bound(self, counts: Counts) -> float:
        """The greatest mean that is refuted, in [0, 1]."""
        refuted, standing = 0.0, 1.0
        while standing - refuted > _ENDS:
            middle = (refuted + standing) / 2
            if self._refuted(counts, middle):
                refuted = middle
            else:
                standing = middle
        return refuted


class SequentialGate:
    """Decides a gate while a run goes on.

    Records may come in any order. They are looked at in the order of the list, and one that is
    early waits for those before it: what finishes first is no fair sample, and the decision is
    the same for any number of workers.

    Args:
        spec: the conditions.
        planned: ids of the run's chains, in the order of the list.
        baseline: lengths of the baseline's completed chains by id; needed for `max_drop`. Chains
            that it lacks say nothing about the drop.

    Raises:
        UsageError: `max_drop` without a baseline that has one of the planned chains.
    """

    def __init__(
        self, spec: GateSpec, planned: Sequence[int], baseline: Mapping[int, int] | None = None
    ) -> None:
        if spec.max_drop is not None and not set(planned) & set(baseline or {}):
            raise UsageError(
                "expected a baseline run with some of the same chains for max-drop, found none. "
                "Name its run folder; a card has no single chains to go by."
            )
        self._spec = spec
        self._planned = tuple(planned)
        self._baseline = dict(baseline or {})
        self._place = {chain: place for place, chain in enumerate(self._planned)}
        self._waiting: dict[int, ChainRecord] = {}
        self._next = 0
        self._settled: dict[str, Check] = {}
        self._watched = dict(self._sequences())
        self.decision: Decision | None = None

    def add(self, record: ChainRecord) -> Decision | None:
        """Take in a record; the decision, once there is one.

        Raises:
            UsageError: the chain is not planned, came before, or has more than five tasks.
        """
        place = self._place.get(record.chain)
        if place is None or place < self._next or place in self._waiting:
            raise UsageError(
                f"expected each of the {len(self._planned)} planned chains once, found chain "
                f"{record.chain} again or unplanned"
            )
        self._waiting[place] = record
        while self.decision is None and self._next in self._waiting:
            self._look(self._waiting.pop(self._next))
            self._next += 1
            self._settle()
        return self.decision

    def state(self) -> Decision:
        """How it stands: the decision, or what is known so far."""
        return self.decision or self._as_decision()

    def _sequences(self) -> Iterator[tuple[str, tuple[float, ConfidenceSequence]]]:
        """Name, threshold and data of every condition."""
        spec, level = self._spec, self._spec.level
        if spec.min_avg_len is not None:
            yield "average length", (spec.min_avg_len, ConfidenceSequence(0, TOP, level))
        if spec.max_drop is not None:
            data = ConfidenceSequence(-TOP, TOP, level)
            yield "average length less baseline's", (-spec.max_drop, data)
        for task, rate in spec.min_task.items():
            yield f"task {task}", (rate, ConfidenceSequence(0, 1, level))

    def _look(self, record: ChainRecord) -> None:
        low, high = possible_lengths(record)
        for name, (_, data) in self._watched.items():
            if name == "average length":
                data.add(low, high)
            elif not name.startswith("task "):
                if record.chain in self._baseline:
                    base = self._baseline[record.chain]
                    data.add(low - base, high - base)
            else:
                for worst, best in possible_attempts(record, name.partition(" ")[2]):
                    data.add(worst, best)

    def _settle(self) -> None:
        """What is decided once stays so: the intervals hold at all moments together."""
        for name, (threshold, data) in self._watched.items():
            if name not in self._settled and data.side(threshold):
                self._settled[name] = self._check(name, threshold, data)
        failed = any(check.outcome == "fail" for check in self._settled.values())
        if failed or len(self._settled) == len(self._watched):
            self.decision = self._as_decision()

    def _as_decision(self) -> Decision:
        checks = [
            self._settled.get(name) or self._check(name, threshold, data)
            for name, (threshold, data) in self._watched.items()
        ]
        return Decision(
            checks=tuple(checks),
            confidence=self._spec.confidence,
            sequential=True,
            planned=len(self._planned),
            used=self._next,
        )

    def _check(self, name: str, threshold: float, data: ConfidenceSequence) -> Check:
        low, high = data.interval()
        side = data.side(threshold)  # exact, where the bounds were found by bisection
        if side > 0:
            low = max(low, threshold)
        elif side < 0:
            high = min(high, math.nextafter(threshold, -math.inf))
        return Check(
            name=name,
            threshold=threshold,
            estimate=data.estimate,
            low=low,
            high=high,
            level=self._spec.level,
            used=f"{data.seen} {'attempts' if name.startswith('task ') else 'chains'}",
            method=METHOD,
        )


def possible_lengths(record: ChainRecord) -> tuple[int, int]:
    """The least and the greatest length that a chain may have; they differ after an error.

    Raises:
        UsageError: it has more than five tasks.
    """
    if len(record.tasks) > TOP:
        raise UsageError(
            f"expected chains of up to {TOP} tasks, found {len(record.tasks)} in chain "
            f"{record.chain}; a gate is for chains like CALVIN's"
        )
    if record.status == "completed":
        return record.length, record.length
    return record.length, len(record.tasks)


def possible_attempts(record: ChainRecord, task: str) -> Iterator[tuple[int, int]]:
    """Every attempt at a task, as the worst and the best that it may have been.

    An attempt that an error prevented may have been a failure, a success, or none at all.
    """
    for subtask in record.subtasks:
        if subtask.task == task:
            yield int(subtask.success), int(subtask.success)
    if record.status == "error":
        for name in record.tasks[len(record.subtasks) :]:
            if name == task:
                yield 0, 1
