"""Stopping a run whose average length is known well enough, and what may be said of it then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from calvin_eval.results.gate_spec import TOP
from calvin_eval.results.intervals import Interval
from calvin_eval.results.means import mean_bounds
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.sequential import ConfidenceSequence, possible_lengths

LEVEL: Final = 0.95


class Tight:
    """Says when the interval of a run's average length is narrow enough.

    Records may come in any order; they are looked at in the order of the list, so that where it
    stops is the same for any number of workers. The interval is one that holds at every moment.

    Args:
        planned: ids of the run's chains, in the order of the list.
        width: of the interval, in tasks, at which the run may stop; 0 for never.
    """

    def __init__(self, planned: Sequence[int], width: float) -> None:
        self._planned, self._width = tuple(planned), width
        self._waiting: dict[int, ChainRecord] = {}
        self._sequence = ConfidenceSequence(0, TOP, LEVEL)
        self.used: list[ChainRecord] = []
        self.decision: str | None = None

    def add(self, record: ChainRecord) -> str | None:
        """Take in a record; what was found, once the interval is narrow enough.

        Raises:
            UsageError: the chain has more than five tasks.
        """
        self._waiting[record.chain] = record
        while self.decision is None and len(self.used) < len(self._planned):
            following = self._waiting.pop(self._planned[len(self.used)], None)
            if following is None:
                break
            self.used.append(following)
            self._sequence.add(*possible_lengths(following))
            self._look()
        return self.decision

    def _look(self) -> None:
        if not self._width or len(self.used) == len(self._planned):
            return
        low, high = self._sequence.interval()
        if high - low <= self._width:
            self.decision = (
                f"average length {low:.2f} to {high:.2f} after {len(self.used)} of "
                f"{len(self._planned)} chains"
            )


def looked_at(
    records: Mapping[int, ChainRecord], planned: Sequence[int], width: float
) -> tuple[list[ChainRecord], bool]:
    """The records of a run that count, and whether it stopped because they were enough.

    These are those in the order of the list, up to the first that is missing or to where the
    interval was narrow enough: what was finished beyond that is no fair sample.
    """
    stop = Tight(planned, width)
    for chain in planned:
        if chain not in records or stop.add(records[chain]):
            break
    return stop.used, stop.decision is not None


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the chains of a run were: all that its average length is judged by.

    Attributes:
        counts: how many completed chains had length 0, 1, ... 5.
        broken: of each chain that ended by an error, the least and the greatest length that it may
            have had; ascending.
        sequential: whether the number of chains was not fixed in advance.
    """

    counts: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    sequential: bool = False

    @classmethod
    def of(cls, records: Iterable[ChainRecord], *, sequential: bool) -> Lengths:
        """Of the records that count."""
        counts, broken = [0] * (TOP + 1), []
        for record in records:
            low, high = possible_lengths(record)
            if record.status == "completed":
                counts[low] += 1
            else:
                broken.append((low, high))
        return cls(counts=tuple(counts), broken=tuple(sorted(broken)), sequential=sequential)

    @property
    def completed(self) -> int:
        """How many chains were completed."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The average length of the completed chains."""
        total = sum(length * n for length, n in enumerate(self.counts))
        return total / self.completed if self.completed else None

    def interval(self, level: float = LEVEL) -> Interval:
        """Of the average length, at any confidence."""
        spans = [(length, length) for length, n in enumerate(self.counts) for _ in range(n)]
        low, high = interval_of([*spans, *self.broken], (0, TOP), level, self.sequential)
        return Interval(low=low, high=high)


def interval_of(
    spans: Sequence[tuple[int, int]], ends: tuple[int, int], level: float, sequential: bool
) -> tuple[float, float]:
    """Bounds of a mean: those that hold at every moment where the data decided how many."""
    if not sequential:
        return mean_bounds(spans, ends, level)
    sequence = ConfidenceSequence(*ends, level)
    for low, high in spans:
        sequence.add(low, high)
    return sequence.interval()
