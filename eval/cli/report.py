"""`calvin-eval report`: everything that can be computed from a run folder, again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calvin_eval.cli.options import option, out_option
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.results.report.view import ReportView


@click.command(short_help="Compute a run's metrics and report again.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option("--partial", is_flag=True, help="Show the headline even while chains are missing.")
@out_option("FILE", "Write one file, .html, .md or .csv, and leave the run folder as it is.")
def report(run: Path, partial: bool, out: Path | None) -> None:
    """Compute a run's metrics and report again from its folder RUN.

    Needs neither simulator nor policy. Writes summary.json, report.html, report.md and tasks.csv
    into the folder, and shows the headline, which is withheld while chains are missing or broken.
    """
    from calvin_eval.results.conclude import write_summary
    from calvin_eval.results.report import render_report, write_reports
    from calvin_eval.results.report.view import make_view
    from calvin_eval.results.store import RunFolder

    folder = RunFolder.open(run)
    if out is None:
        view = write_reports(folder, partial=partial, judge=True)
        write_summary(folder, view.summary, view.verdict)
    else:
        view = make_view(folder, partial=partial, judge=True)
        base = Path(os.path.relpath(folder.path, out.resolve().parent)).as_posix()
        _write(out, render_report(view, out.suffix, base))
    from calvin_eval.console.terminal import Terminal

    print_report(view, Terminal(file=sys.stdout))
    say(f"Report: {out or folder.path / 'report.html'}")


def print_report(view: ReportView, console: Console) -> None:
    """The headline, or why there is none, and the verdict."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from calvin_eval.results.report.text import span

    console.print(Text(view.policy or view.title, style="bold"))
    if view.withheld:
        kind = "Partial result" if view.headline else "Headline withheld"
        advice = "" if view.headline else " Complete the run by --resume, or see --partial."
        console.print(Text.assemble((kind, "bold red"), f": {view.withheld}.{advice}"))
    if view.headline is not None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("in a row", "success %", "95 %"):
            table.add_column(heading, justify="right", no_wrap=True)
        for i, rate, interval in view.headline.rates:
            table.add_row(str(i), f"{100 * rate:.1f}", span(interval, 1, 100))
        length = f"{view.headline.length:.3f}"
        table.add_row("length", Text(length, style="bold"), span(view.headline.interval, 3))
        console.print(table)
    if view.verdict is not None:
        status = "Official" if view.verdict.official else "Not comparable with published results:"
        console.print(Text(status, style="bold"))
        for reason in view.verdict.reasons:
            console.print(Text(f"  - {reason}"))
        for remark in view.verdict.remarks:
            console.print(Text(remark))


def _write(path: Path, text: str) -> None:
    from calvin_eval.errors import UsageError
    from calvin_eval.files import write_atomic

    try:
        write_atomic(path, text.encode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"--out {path}: expected a file that can be written, found: {error.strerror}"
        ) from error
