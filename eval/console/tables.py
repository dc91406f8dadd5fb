"""The result of runs as tables, on stdout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from calvin_eval.results.intervals import Interval
from calvin_eval.results.metrics import Count, Summary
from calvin_eval.results.seeds import SeedSpread
from calvin_eval.running.outcome import FailedRun, Run

GOOD, BAD = "green", "bold red"
"""The only colours: both can be read on light and on dark terminals."""

_LEAST_BAR, _MOST_BAR = 5, 12  # characters of a task's bar; below that there is none
_GAP = 5  # characters between two columns of tasks
_FEW = 6  # tasks that are not worth a column of their own
_MOST_ERRORS = 3  # that are quoted


@dataclass(frozen=True)
class Signs:
    """Characters beyond ASCII, and what stands in for them where a terminal has no others."""

    full: str = "━"
    half: str = "╸"
    rest: str = "─"
    dash: str = "\N{EN DASH}"
    tick: str = "✓"
    dot: str = "·"

    @classmethod
    def of(cls, console: Console) -> Signs:
        """Those that a console can show."""
        if console.encoding.startswith("utf"):
            return cls()
        return cls(full="=", half="-", rest=".", dash="-", tick="+", dot="-")

    def bar(self, share: float, width: int) -> tuple[str, str]:
        """The full and the empty part of a bar; a share of 0..1 that is not all is never full."""
        halves = int(2 * width * min(max(share, 0.0), 1.0))
        full = self.full * (halves // 2) + self.half * (halves % 2)
        return full, self.rest * (width - len(full))


def print_run(run: Run, console: Console) -> None:
    """The final tables, the verdict and where the files are."""
    signs = Signs.of(console)
    console.print()
    console.print(Text(run.policy, style="bold"))
    console.print(_chains_line(run.summary))
    if run.summary.partial_success_rates:
        console.print()
        console.print(_rates_table(run.summary, console, signs))
    if run.summary.per_task:
        console.print()
        console.print(_task_table(run.summary.per_task, console.width, signs))
    console.print()
    if not run.summary.complete:
        _print_incomplete(run, console)
    _print_verdict(run, console, signs)
    console.print(Text(run.advice[:1].upper() + run.advice[1:], style="dim"))
    # Never broken into lines: a path is there to be copied.
    console.print(Text(f"Files: {run.folder}"), soft_wrap=True)


def print_comparison(runs: Sequence[Run | FailedRun], console: Console) -> None:
    """Print one line per run, the best average length first, then those that failed.

    Where the terminal is narrow, a run takes two lines.
    """
    signs = Signs.of(console)
    ranked = sorted((run for run in runs if isinstance(run, Run)), key=_by_length)
    table = _plain_table()
    table.add_column("run", no_wrap=True)
    for heading in ("chains", "1..5 %", "length", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in ranked:
        table.add_row(_name(run), *_compared(run.summary, signs))
    console.print()
    console.print(Text("All runs, the best first", style="bold"))
    console.print()
    if _fits(table, console):
        console.print(table)
    else:
        for run in ranked:
            console.print(Text(_name(run), style="bold", overflow="fold"))
            console.print(Text("   ").join([Text(), *_compared(run.summary, signs)]))
    for failed in (run for run in runs if isinstance(run, FailedRun)):
        console.print(Text.assemble((failed.name, "bold"), (" failed: ", BAD), str(failed.error)))


def print_spread(policy: str, spread: SeedSpread, console: Console) -> None:
    """Print mean and spread over the seeds of one policy."""
    console.print()
    seeds = ", ".join(map(str, spread.seeds))
    console.print(Text(f"{policy}: {len(spread.seeds)} seeds ({seeds})", style="bold"))
    if spread.left_out:
        left = ", ".join(map(str, spread.left_out))
        console.print(Text(f"left out, as not complete: {left}", style=BAD))
    if spread.average_length is None:
        return
    table = _plain_table()
    table.add_column("", no_wrap=True)
    for heading in ("mean", "deviation", "lowest", "highest"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = {f"{i} in a row, %": (rate, 100, 1) for i, rate in spread.success_rates.items()}
    for name, (found, scale, digits) in {**rows, "length": (spread.average_length, 1, 3)}.items():
        values = (found.mean, found.deviation, found.low, found.high)
        shown = ("" if v is None else f"{scale * v:.{digits}f}" for v in values)
        table.add_row(name, *shown)
    console.print(table)


def _compared(summary: Summary, signs: Signs) -> list[Text]:
    """Chains, rates, average length and its interval."""
    rates = summary.partial_success_rates or {}
    mean, spread = summary.partial_average_length, summary.partial_average_length_interval
    chains = f"{summary.completed}" + ("" if summary.complete else f" of {summary.planned}")
    return [
        Text(chains, style="" if summary.complete else BAD),
        Text("  ".join(f"{100 * rate:.0f}".rjust(2) for rate in rates.values())),
        Text(signs.dash if mean is None else f"{mean:.3f}", style="bold"),
        Text("" if spread is None else _span(spread, signs), style="dim"),
    ]


def _fits(table: Table, console: Console) -> bool:
    """Whether nothing would be cut off."""
    unbounded = console.options.update(max_width=1000)
    return Measurement.get(console, unbounded, table).maximum <= console.width


def _name(run: Run) -> str:
    """The run folder's name, with that of its policy where it is one of several seeds."""
    seed = run.folder.name.startswith("seed-")
    return f"{run.folder.parent.name}/{run.folder.name}" if seed else run.folder.name


def _by_length(run: Run) -> float:
    mean = run.summary.partial_average_length
    return math.inf if mean is None else -mean


def _plain_table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="dim",
        border_style="dim",
    )


def _chains_line(summary: Summary) -> Text:
    chains = f"{summary.completed} chain{'' if summary.completed == 1 else 's'}"
    if summary.complete:
        return Text(chains, style="dim")
    return Text(f"partial result of {chains} out of {summary.planned}", style=BAD)


def _rates_table(summary: Summary, console: Console, signs: Signs) -> Table:
    """One column per number of tasks in a row, or one line where the terminal is too narrow."""
    intervals = summary.partial_success_rate_intervals or {}
    columns = [
        (str(i), f"{100 * rate:.1f}", _span(intervals[i], signs, 100, 1))
        for i, rate in (summary.partial_success_rates or {}).items()
    ]
    mean, spread = summary.partial_average_length, summary.partial_average_length_interval
    if mean is not None and spread is not None:
        columns.append(("length", f"{mean:.3f}", _span(spread, signs)))
    table = _plain_table()
    table.add_column("in a row", no_wrap=True)
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("success %", *(rate for _, rate, _ in columns), style="bold")
    table.add_row("95 %", *(span for _, _, span in columns), style="dim")
    if _fits(table, console):
        return table
    table = _plain_table()
    for heading in ("in a row", "success %", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading, rate, span in columns:
        table.add_row(heading, Text(rate, style="bold"), Text(span, style="dim"))
    return table


def _span(interval: Interval, signs: Signs, scale: float = 1, digits: int = 2) -> str:
    low, high = scale * interval.low, scale * interval.high
    return f"{low:.{digits}f}{signs.dash}{high:.{digits}f}"


def _task_table(tasks: Mapping[str, Count], width: int, signs: Signs) -> Table:
    """Tasks by success rate, in as many columns as there is room and need for."""
    ranked = sorted(tasks.items(), key=lambda item: (-(item[1].rate or 0), item[0]))
    counts = [f"{count.success}/{count.total}" for _, count in ranked]
    # Name, rate and counts, and the gaps between them; what is left goes to the bars.
    least = max(map(len, tasks)) + max(map(len, counts)) + len("100 %") + 4
    most = min((width + _GAP) // (least + _GAP), len(tasks) // _FEW, 3)
    columns = max(most, 1)
    bar = min((width + _GAP) // columns - _GAP - least - 2, _MOST_BAR)
    height = math.ceil(len(ranked) / columns)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    lines: list[list[str | Text]] = [[] for _ in range(height)]
    for place, ((name, count), text) in enumerate(zip(ranked, counts, strict=True)):
        line = lines[place % height]
        if line:
            line.append("  ")
        rate = count.rate or 0.0
        line += [name, *_bar_cell(rate, bar, signs), f"{100 * rate:.0f} %", Text(text, "dim")]
    for column in range(columns):
        if column:
            table.add_column(width=_GAP - 4)  # it has two gaps of its own
        table.add_column(overflow="fold")
        if bar >= _LEAST_BAR:
            table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _bar_cell(share: float, width: int, signs: Signs) -> list[Text]:
    if width < _LEAST_BAR:
        return []
    full, rest = signs.bar(share, width)
    return [Text.assemble((full, GOOD), (rest, "dim"))]


def _print_incomplete(run: Run, console: Console) -> None:
    summary = run.summary
    console.print(
        Text.assemble(
            ("Incomplete: ", BAD),
            f"{summary.completed} of {summary.planned} chains completed, {summary.errors} ended "
            f"by an error, {summary.missing} missing. The headline is withheld; the numbers above "
            "are of the completed chains only.",
        )
    )
    broken = [record for record in run.records if record.status == "error"]
    for record in broken[:_MOST_ERRORS]:
        console.print(_listed(f"chain {record.chain}:", record.cause))
    if len(broken) > _MOST_ERRORS:
        more = len(broken) - _MOST_ERRORS
        console.print(f"  and {more} more; chains.jsonl has every traceback.", highlight=False)


def _print_verdict(run: Run, console: Console, signs: Signs) -> None:
    if run.verdict.official:
        console.print(Text.assemble(("Official:", GOOD), " comparable with published results."))
    else:
        console.print(Text("Not comparable with published results:", style="bold"))
        for reason in run.verdict.reasons:
            console.print(_listed(signs.dot, reason))
    for remark in run.verdict.remarks:
        console.print(Text(remark))


def _listed(sign: str, text: str) -> Table:
    """A sign and a text whose further lines are indented like its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text(f"  {sign}"), Text(text, overflow="fold"))
    return grid
