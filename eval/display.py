"""What a run shows in the terminal: progress on stderr, the result on stdout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from calvin_eval.results.schema import ChainRecord

if TYPE_CHECKING:
    from calvin_eval.evaluate import Run

PLAIN_SECONDS = 10.0
"""How often a run that is not on a terminal says how it is doing."""

_REFRESH = 4.0  # times a second


class Tally:
    """Running success rates of the chains so far, and the speed."""

    def __init__(self, done: Sequence[ChainRecord] = ()) -> None:
        self.started = time.monotonic()
        self.steps = 0
        self.chains = 0
        self.errors = 0
        self._lengths: Counter[int] = Counter()
        for record in done:
            self.add(record)

    def add(self, record: ChainRecord) -> None:
        """Count a finished chain."""
        self.chains += 1
        if record.status == "error":
            self.errors += 1
        else:
            self._lengths[record.length] += 1

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return max(time.monotonic() - self.started, 1e-9)

    def text(self) -> str:
        """Rates 1..5, average length, errors if any, and speed, in one line."""
        parts = []
        done = sum(self._lengths.values())
        if done:
            longest = max(5, *self._lengths)
            rates = (
                sum(n for length, n in self._lengths.items() if length >= i) / done
                for i in range(1, longest + 1)
            )
            parts.append("1..5: " + " ".join(f"{100 * rate:.0f}" for rate in rates) + " %")
            mean = sum(length * n for length, n in self._lengths.items()) / done
            parts.append(f"avg len {mean:.2f}")
        if self.errors:
            parts.append(f"{self.errors} errors")
        parts.append(f"{self.steps / self.seconds:.0f} steps/s")
        return "  ".join(parts)


class RichDisplay:
    """A live progress bar, for terminals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = Tally()
        self._progress = Progress(
            TextColumn("chains"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tally]}"),
            console=console,
            auto_refresh=False,
        )
        self._live = Live(self._progress, console=console, refresh_per_second=_REFRESH)
        self._task = self._progress.add_task("chains", total=None, tally="")
        self._drawn = 0.0

    def note(self, text: str) -> None:
        """Say one line above the bar."""
        self._console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)

    def begin(self, chains: int, done: Sequence[ChainRecord], workers: int) -> None:
        """Show the bar."""
        self._tally = Tally(done)
        self._progress.reset(self._task, total=chains, completed=len(done))
        self._live.start()

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps; the text is redrawn a few times a second."""
        self._tally.steps += steps
        now = time.monotonic()
        if now - self._drawn > 1 / _REFRESH:
            self._drawn = now
            self._progress.update(self._task, tally=self._tally.text())

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Advance the bar."""
        self._tally.add(record)
        self._progress.update(self._task, advance=1, tally=self._tally.text())

    def end(self) -> None:
        """Leave the last state standing."""
        self._live.stop()


class PlainDisplay:
    """A line now and then, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tally = Tally()
        self._total = self._before = 0
        self._said = 0.0

    def note(self, text: str) -> None:
        """Say one line."""
        print(text, file=self._stream, flush=True)

    def begin(self, chains: int, done: Sequence[ChainRecord], workers: int) -> None:
        """Remember the total."""
        self._tally = Tally(done)
        self._total, self._before = chains, len(done)
        self._said = time.monotonic()

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps."""
        self._tally.steps += steps

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Say how the run is doing, unless that was said a moment ago."""
        self._tally.add(record)
        last = self._tally.chains == self._total
        if last or time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            done, total = self._tally.chains, self._total
            left = self._tally.seconds / max(done - self._before, 1) * (total - done)
            self.note(f"{done}/{total} chains  {self._tally.text()}  {left:.0f} s left")

    def end(self) -> None:
        """Nothing to take down."""


class QuietDisplay:
    """Nothing at all."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def begin(self, chains: int, done: Sequence[ChainRecord], workers: int) -> None:
        """Show nothing."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Show nothing."""

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Nothing to take down."""


def make_display(
    stream: TextIO, *, quiet: bool = False
) -> RichDisplay | PlainDisplay | QuietDisplay:
    """A live display on a terminal, plain lines elsewhere, or nothing."""
    if quiet:
        return QuietDisplay()
    console = Console(file=stream)
    return RichDisplay(console) if console.is_terminal else PlainDisplay(stream)


def print_run(run: Run, console: Console) -> None:
    """The final tables, the verdict and where the files are."""
    summary = run.summary
    console.print()
    console.print(_rates_table(run))
    if summary.per_task:
        console.print(_task_table(run))
    if not summary.complete:
        console.print(
            f"[bold yellow]Incomplete:[/bold yellow] {summary.completed} of {summary.planned} "
            f"chains completed, {summary.errors} ended by an error, {summary.missing} missing. "
            "The headline is withheld; the numbers above are of the completed chains only."
        )
        _print_errors(run, console)
    if run.verdict.official:
        console.print("[bold green]Official:[/bold green] comparable with published results.")
    else:
        console.print("[bold]Not comparable with published results:[/bold]")
        for reason in run.verdict.reasons:
            console.print(f"  · {escape(reason)}", highlight=False)
    console.print(f"[dim]{escape(run.advice)}[/dim]", highlight=False)
    console.print(f"Files: {run.folder}", highlight=False, soft_wrap=True)


def print_comparison(runs: Sequence[Run], console: Console) -> None:
    """One line per run, the best average length first."""
    table = Table(title="comparison", title_justify="left", title_style="bold")
    for heading in ("policy", "chains", "1..5 %", "avg length", "95 %"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for run in sorted(runs, key=lambda run: -(run.summary.partial_average_length or 0)):
        summary = run.summary
        rates = summary.partial_success_rates or {}
        mean, spread = summary.partial_average_length, summary.partial_average_length_interval
        table.add_row(
            run.folder.name,
            f"{summary.completed} / {summary.planned}",
            "  ".join(f"{100 * rate:.0f}" for rate in rates.values()),
            "-" if mean is None else f"{mean:.3f}",
            "-" if spread is None else f"{spread.low:.2f}-{spread.high:.2f}",
        )
    console.print(table)


def _rates_table(run: Run) -> Table:
    summary = run.summary
    chains = f"{summary.completed} chain{'' if summary.completed == 1 else 's'}"
    title = chains if summary.complete else f"partial result of {chains}"
    table = Table(title=title, title_justify="left", title_style="bold")
    rates = summary.partial_success_rates or {}
    intervals = summary.partial_success_rate_intervals or {}
    table.add_column("in a row", no_wrap=True)
    for i in rates:
        table.add_column(str(i), justify="right", no_wrap=True)
    table.add_column("avg length", justify="right", no_wrap=True)
    mean, spread = summary.partial_average_length, summary.partial_average_length_interval
    table.add_row(
        "success %",
        *(f"{100 * rate:.1f}" for rate in rates.values()),
        "-" if mean is None else f"{mean:.3f}",
    )
    if spread is not None:
        table.add_row(
            "95 %",
            *(f"{100 * i.low:.1f}-{100 * i.high:.1f}" for i in intervals.values()),
            f"{spread.low:.2f}-{spread.high:.2f}",
            style="dim",
        )
    return table


def _task_table(run: Run) -> Table:
    table = Table(title="tasks", title_justify="left", title_style="bold")
    for heading in ("task", "successes / attempts", "rate"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    counts = sorted(run.summary.per_task.items(), key=lambda item: (-(item[1].rate or 0), item[0]))
    for task, count in counts:
        table.add_row(task, f"{count.success} / {count.total}", f"{100 * (count.rate or 0):.1f} %")
    return table


def _print_errors(run: Run, console: Console, most: int = 3) -> None:
    broken = [record for record in run.records if record.status == "error"]
    for record in broken[:most]:
        last = (record.error or "").strip().splitlines()[-1]
        console.print(f"  chain {record.chain}: {escape(last)}", highlight=False)
    if len(broken) > most:
        console.print(f"  and {len(broken) - most} more; chains.jsonl has every traceback.")
