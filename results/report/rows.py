"""The numbers of a run, as rows of tables and marks of plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calvin_eval.results.intervals import Interval, wilson
from calvin_eval.results.metrics import (
    Count,
    Steps,
    Summary,
    completed_chains,
    failure_positions,
    steps_to_success,
)
from calvin_eval.results.report.svg import Plot, Value, axis_top, plot
from calvin_eval.results.schema import ChainRecord


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One task: successes among attempts, and the steps that success took (None without any)."""

    name: str
    count: Count
    steps: Steps | None


@dataclass(frozen=True, kw_only=True)
class PositionRow:
    """One place in the chain.

    Attributes:
        position: from 1.
        count: successes among the chains that got there.
        failed: chains that ended there.
        share: of all completed chains.
        interval: its 95 % Wilson interval.
    """

    position: int
    count: Count
    failed: int
    share: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The numbers that papers quote: per i, the share of chains with i tasks in a row; the mean.

    Attributes:
        rates: i, share and interval.
        length: average number of tasks in a row.
        interval: its 95 % interval.
    """

    rates: tuple[tuple[int, float, Interval], ...]
    length: float
    interval: Interval


def headline_of(summary: Summary) -> Headline | None:
    """The numbers that papers quote, of the completed chains; None without any."""
    rates, spans = summary.partial_success_rates, summary.partial_success_rate_intervals
    length, interval = summary.partial_average_length, summary.partial_average_length_interval
    if rates is None or spans is None or length is None or interval is None:
        return None
    triples = tuple((i, rate, spans[i]) for i, rate in rates.items())
    return Headline(rates=triples, length=length, interval=interval)


def curve_of(headline: Headline | None) -> Plot | None:
    """Success along the chain; None without a headline."""
    if headline is None:
        return None
    return plot([Value(label=str(i), share=s, interval=span) for i, s, span in headline.rates])


def ends_of(records: Sequence[ChainRecord]) -> Plot | None:
    """How many chains end after 0, 1, ... tasks."""
    lengths = [chain.length for chain in completed_chains(records)]
    if not lengths:
        return None
    longest = max(len(chain.tasks) for chain in completed_chains(records))
    ended = [lengths.count(length) for length in range(longest + 1)]
    values = [
        Value(label=str(i), share=n / len(lengths), interval=wilson(n, len(lengths)))
        for i, n in enumerate(ended)
    ]
    return plot(values, top=axis_top([value.interval.high for value in values]))


def positions_of(records: Sequence[ChainRecord], summary: Summary) -> tuple[PositionRow, ...]:
    """Every place in the chain."""
    failed = failure_positions(records)
    return tuple(
        PositionRow(
            position=i,
            count=count,
            failed=failed[i],
            share=failed[i] / summary.completed,
            interval=wilson(failed[i], summary.completed),
        )
        for i, count in summary.per_position.items()
    )


def tasks_of(records: Sequence[ChainRecord], summary: Summary) -> tuple[TaskRow, ...]:
    """Every task, the best first; of equals the one that was tried more often."""
    steps = steps_to_success(records)
    rows = [TaskRow(name=n, count=c, steps=steps.get(n)) for n, c in summary.per_task.items()]
    return tuple(sorted(rows, key=_by_success))


def _by_success(row: TaskRow) -> tuple[float, int, str]:
    return -(row.count.rate or 0.0), -row.count.total, row.name
