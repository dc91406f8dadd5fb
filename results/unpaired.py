"""A run compared with a published result, or two of these: rates side by side, unpaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval.results.means import difference_bounds
from calvin_eval.results.metrics import Count
from calvin_eval.results.paired import Contrast

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One side.

    Attributes:
        name: of the run or file.
        average_length: mean number of tasks in a row.
        rates: per i = 1.. the share of chains with at least i.
        lengths: of its chains, in any order; None if they are not known.
        tasks: successes among attempts.
        remarks: what a reader should know of it.
    """

    name: str
    average_length: float
    rates: Mapping[int, float]
    lengths: tuple[int, ...] | None
    tasks: Mapping[str, Count]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RateContrast:
    """The share of chains with at least `position` tasks in a row.

    Attributes:
        difference: other less first with its 95 % interval for independent chains; None if the
            number of chains of one side is not known.
    """

    position: int
    first: float
    other: float
    difference: Contrast | None


@dataclass(frozen=True, kw_only=True)
class TaskRates:
    """One task's successes among attempts; None where a side has no such counts."""

    task: str
    first: Count | None
    other: Count | None


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """Two sides of which one at least is a published result.

    Attributes:
        difference: of the average lengths, other less first, with its 95 % interval for
            independent chains; None if the number of chains of one side is not known.
    """

    first: Rates
    other: Rates
    difference: Contrast | None
    positions: tuple[RateContrast, ...]
    tasks: tuple[TaskRates, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "first": self.first.name,
            "other": self.other.name,
            "paired": False,
            "first_length": self.first.average_length,
            "other_length": self.other.average_length,
            "difference": None if self.difference is None else asdict(self.difference),
            "positions": [asdict(row) for row in self.positions],
            "tasks": [asdict(row) for row in self.tasks],
            "remarks": list(self.remarks),
        }


def compare_rates(first: Rates, other: Rates) -> Unpaired:
    """Hold two sides side by side; their chains count as independent."""
    top = max(len(first.rates), len(other.rates))
    positions = tuple(
        RateContrast(
            position=i,
            first=first.rates[i],
            other=other.rates[i],
            difference=_difference(_reached(first, i), _reached(other, i), 1),
        )
        for i in sorted({*first.rates} & {*other.rates})
    )
    return Unpaired(
        first=first,
        other=other,
        difference=_difference(first.lengths, other.lengths, top),
        positions=positions,
        tasks=tuple(
            TaskRates(task=task, first=first.tasks.get(task), other=other.tasks.get(task))
            for task in sorted({*first.tasks, *other.tasks})
        ),
        remarks=(*first.remarks, *other.remarks),
    )


def _reached(side: Rates, position: int) -> list[int] | None:
    """Per chain whether it got so far."""
    return None if side.lengths is None else [int(n >= position) for n in side.lengths]


def _difference(
    first: Sequence[int] | None, other: Sequence[int] | None, top: int
) -> Contrast | None:
    if not first or not other:
        return None
    low, high = difference_bounds([(n, n) for n in other], list(first), top, LEVEL)
    estimate = sum(other) / len(other) - sum(first) / len(first)
    return Contrast(estimate=estimate, low=low, high=high)
