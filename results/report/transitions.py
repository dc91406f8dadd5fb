"""Which task fails after which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calvin_eval.results.metrics import Count, task_counts, transition_counts
from calvin_eval.results.report.svg import Matrix, MatrixCell, matrix
from calvin_eval.results.report.text import percent
from calvin_eval.results.schema import ChainRecord

START = "start of the chain"
ARROW = "\N{RIGHTWARDS ARROW}"

MOST_PAIRS = 10
"""Pairs in the list of those that failed most often."""


@dataclass(frozen=True, kw_only=True)
class TaskPair:
    """One task after another.

    Attributes:
        before: the task that was done, or `START`.
        task: the task that was asked for next.
        count: successes among attempts.
        usual: share of failures of that task, whatever came before it.
    """

    before: str
    task: str
    count: Count
    usual: float

    @property
    def failed(self) -> int:
        """Attempts that failed."""
        return self.count.total - self.count.success

    @property
    def key(self) -> str:
        """What a chain that fails here is found by."""
        return transition(self.before, self.task)


def transition(before: str | None, task: str) -> str:
    """One task after another, in words."""
    return f"{before or START} {ARROW} {task}"


def pairs(records: Sequence[ChainRecord]) -> list[TaskPair]:
    """All pairs that were tried, those with the most failures first."""
    usual = {task: 1 - (count.rate or 0.0) for task, count in task_counts(records).items()}
    found = [
        TaskPair(before=before or START, task=task, count=count, usual=usual[task])
        for (before, task), count in transition_counts(records).items()
    ]
    return sorted(found, key=lambda p: (-p.failed, p.count.total, p.before, p.task))


def transition_matrix(tried: Sequence[TaskPair]) -> Matrix | None:
    """All pairs as a picture, the tasks that fail most often first; None without any."""
    if not tried:
        return None
    usual = {pair.task: pair.usual for pair in tried}
    columns = sorted(usual, key=lambda task: (-usual[task], task))
    before = {pair.before for pair in tried}
    rows = [name for name in (START, *columns) if name in before]
    most = max((pair.count.total for pair in tried if pair.before != START), default=1)
    row_of, column_of = _places(rows), _places(columns)
    entries = {
        (row_of[pair.before], column_of[pair.task]): MatrixCell(
            weight=min(pair.count.total / most, 1.0),
            share=pair.failed / pair.count.total,
            title=_title(pair),
            key=pair.key if pair.failed else "",
        )
        for pair in tried
    }
    return matrix(rows, columns, entries)


def _places(names: Sequence[str]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(names)}


def _title(pair: TaskPair) -> str:
    share = percent(pair.failed / pair.count.total, 0)
    return f"{pair.key}: {pair.failed} of {pair.count.total} failed ({share})"
