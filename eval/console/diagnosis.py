"""Why failures failed, as tables on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calvin_eval.results.diagnosis import CAUSES, Diagnosis

_MOST = 15  # rows of what was done instead
_REASONS = 5


def print_diagnosis(found: Diagnosis, console: Console) -> None:
    """Causes, causes by task, and what was done instead."""
    failures, chains = len(found.failures), len(found.lengths)
    console.print(Text(f"{failures} failed subtasks in {chains} chains", style="bold"))
    if failures:
        console.print(_causes(found))
        console.print(_tasks(found))
    if any(found.confusion().values()):
        console.print(_instead(found))
    if solvable := found.solvable():
        console.print(_solvable(solvable))
    if impossible := sum(failure.obstacle is not None for failure in found.failures):
        console.print(
            Text(f"{impossible} could not be achieved from the state that they began in (obstacle)")
        )
    if (partial := found.partial_length()) is not None:
        mean, interval = partial
        console.print(
            Text(
                f"With partial credit for the failed subtask, {mean:.3f} tasks in a row "
                f"({interval.low:.3f} to {interval.high:.3f}): unofficial, never to be published "
                "as a CALVIN score"
            )
        )
    reasons = Counter(one.reason for one in found.undiagnosed)
    for reason, count in reasons.most_common(_REASONS):
        console.print(Text(f"not looked at, {count} chains: {reason}"))


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _causes(found: Diagnosis) -> Table:
    table = _table("cause", "failures", "%", "best progress")
    for cause, count in found.causes.items():
        if count:
            best = [f.progress_best for f in found.failures if f.cause == cause]
            share = f"{100 * count / len(found.failures):.0f}"
            table.add_row(cause, str(count), share, f"{sum(best) / count:.2f}")
    return table


def _tasks(found: Diagnosis) -> Table:
    """Per task, its causes, the most frequent first."""
    table = _table("task", "failures", "causes")
    table.columns[2].justify = "left"
    failed = Counter(failure.task for failure in found.failures)
    for task, count in failed.most_common():
        causes = Counter(f.cause for f in found.failures if f.task == task)
        ordered = sorted(causes.items(), key=lambda item: (-item[1], CAUSES.index(item[0])))
        table.add_row(task, str(count), ", ".join(f"{cause} {n}" for cause, n in ordered))
    return table


def _solvable(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """Per place in the chain, what the expert could still do."""
    table = _table("place in the chain", "failures", "expert from begin", "expert from end")
    for place, row in counts.items():
        table.add_row(place, *(str(row[key]) for key in ("failures", "begin", "end")))
    return table


def _instead(found: Diagnosis) -> Table:
    """What was asked and what was done instead, the most frequent first."""
    table = _table("asked", "done instead", "failures")
    table.columns[1].justify = "left"
    rows = [(n, asked, done) for asked, row in found.confusion().items() for done, n in row.items()]
    for count, asked, done in sorted(rows, key=lambda row: (-row[0], *row[1:]))[:_MOST]:
        table.add_row(
            found.instructions.get(asked, asked), found.instructions.get(done, done), str(count)
        )
    if len(rows) > _MOST:
        table.caption = f"and {len(rows) - _MOST} more in --json"
    return table
