"""`calvin-eval compare`: two or more runs of the same chains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calvin_eval.cli.compared import BAD, GOOD, p_text, print_unpaired, table
from calvin_eval.cli.options import json_option, option, out_option
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from calvin_eval.results.compare import Comparison, Pair

_MOST_FLIPS, _MOST_TASKS = 10, 10


@click.command(short_help="Compare runs of the same chains with the first of them.")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN|FILE [RUN|FILE]...",
    type=click.Path(path_type=Path),
)  # fmt: skip
@option("--force", is_flag=True, help="Compare runs of different protocols; it will say so.")
@out_option("FILE", "Write the comparison too, as .html or .json.", multiple=True)
@option("--html", hidden=True, type=click.Path(path_type=Path))
@json_option
def compare(
    runs: tuple[Path, ...], force: bool, out: tuple[Path, ...], html: Path | None, as_json: bool
) -> None:
    """Compare runs of the same chains with the first of them.

    Two folders of robustness suites are compared cell by cell.

    Everything is paired on the chain. Runs that differ in assets, revision, renderer or protocol
    are refused, naming each difference, unless --force is given.

    A FILE is a published result: upstream's results.json, a flat one, a log with success=N for
    every chain, or a folder of such logs. It is compared with the first by its rates, unpaired.
    """
    from calvin_eval.results.compare import compare_runs
    from calvin_eval.results.robustness.document import is_suite

    if any(map(is_suite, runs)):
        from calvin_eval.cli.compare_suites import compare_and_show

        compare_and_show(runs, [*out, *([html] if html else [])], force=force, as_json=as_json)
        return
    comparison = compare_runs(runs, force=force)
    files = [*out, *([html] if html else [])]
    for path in files:
        _write(path, _rendered(comparison, path))
    if as_json:
        say(_as_json(comparison), nl=False)
        return
    from calvin_eval.console.terminal import Terminal

    print_compared(comparison, Terminal(file=sys.stdout))
    for path in files:
        say(f"Written: {path}")


def _rendered(comparison: Comparison, path: Path) -> str:
    """What a file of that name holds."""
    from calvin_eval.errors import UsageError

    if path.suffix == ".json":
        return _as_json(comparison)
    if path.suffix == ".html":
        from calvin_eval.results.compare_html import comparison_html

        return comparison_html(comparison, path.resolve().parent)
    raise UsageError(f"--out: expected a name that ends in .html or .json, found {path}")


def _as_json(comparison: Comparison) -> str:
    return json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n"


def print_compared(comparison: Comparison, console: Console) -> None:
    """The comparison as text."""
    from rich.text import Text

    for run in comparison.runs:
        style = "" if run.completed == run.planned else BAD
        count = f"{run.completed} of {run.planned} chains completed"
        console.print(Text.assemble((run.name, "bold"), "  ", (count, style), "  ", run.policy))
    for file in comparison.published:
        console.print(Text.assemble((file.name, "bold"), "  ", str(file)))
    for pair in comparison.pairs:
        _print_pair(pair, console)
    for unpaired in comparison.unpaired:
        print_unpaired(unpaired, console)


def _print_pair(pair: Pair, console: Console) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(f"{pair.other.name} against {pair.first.name}", style="bold"))
    for difference in pair.differences:
        console.print(Text.assemble(("  Forced: ", BAD), "the runs differ in ", str(difference)))
    for remark in pair.remarks:
        console.print(Text(f"  {remark}", style="dim"))
    spread = pair.difference
    style = GOOD if spread.low > 0 else BAD if spread.high < 0 else "bold"
    console.print(
        Text.assemble(
            f"Average length of {pair.chains} common chains: {pair.first_length:.3f} and "
            f"{pair.other_length:.3f}, difference ",
            (f"{spread.estimate:+.3f}", style),
            f" (95 %: {spread.low:+.3f} to {spread.high:+.3f}; p = {p_text(pair.p)})",
        )
    )
    console.print()
    console.print(_position_table(pair))
    console.print()
    console.print(_task_table(pair))
    console.print()
    if pair.causes:
        console.print(_cause_table(pair))
        console.print()
    _print_flips(pair, console)


def _position_table(pair: Pair) -> Table:
    shown = table("in a row", "first %", "other %", "difference", "95 %", "only one", "p")
    for row in pair.positions:
        spread = row.difference
        shown.add_row(
            str(row.position),
            f"{100 * row.first:.1f}",
            f"{100 * row.other:.1f}",
            f"{100 * spread.estimate:+.1f}",
            f"{100 * spread.low:+.1f} to {100 * spread.high:+.1f}",
            f"{row.only_first}/{row.only_other}",
            p_text(row.p),
        )
    return shown


def _task_table(pair: Pair) -> Table:
    """The tasks that differ most; all of them are in the page and in the JSON."""
    shown = table("task", "first", "other", "both tried", "only one", "p", "p (Holm)")
    for row in pair.tasks[:_MOST_TASKS]:
        shown.add_row(
            row.task,
            f"{row.first.success}/{row.first.total}",
            f"{row.other.success}/{row.other.total}",
            str(row.common),
            f"{row.only_first}/{row.only_other}",
            p_text(row.p),
            p_text(row.p_holm),
            style="bold" if row.p_holm < 0.05 else "",
        )
    if len(pair.tasks) > _MOST_TASKS:
        shown.caption = f"and {len(pair.tasks) - _MOST_TASKS} more in --html and --json"
    return shown


def _cause_table(pair: Pair) -> Table:
    """Chains that fail by each cause: what was cured and what was broken."""
    shown = table("cause", "first", "other", "chains", "cured", "broken", "p", "p (Holm)")
    for row in pair.causes:
        shown.add_row(
            row.cause, str(row.first), str(row.other), str(row.common), str(row.cured),
            str(row.broken), p_text(row.p), p_text(row.p_holm),
            style="bold" if row.p_holm < 0.05 else "",
        )  # fmt: skip
    return shown


def _print_flips(pair: Pair, console: Console) -> None:
    up = sum(flip.other > flip.first for flip in pair.flips)
    down = len(pair.flips) - up
    console.print(f"{len(pair.flips)} chains went differently: {up} further, {down} less far")
    if not pair.flips:
        return
    shown = table("chain", "first", "broke off at", "other", "broke off at", "videos")
    for flip in pair.flips[:_MOST_FLIPS]:
        videos = [
            str(run.folder / video)
            for run, video in ((pair.first, flip.first_video), (pair.other, flip.other_video))
            if video
        ]
        shown.add_row(
            str(flip.chain),
            str(flip.first),
            flip.first_broke or "all done",
            str(flip.other),
            flip.other_broke or "all done",
            "\n".join(videos),
        )
    console.print(shown)
    if len(pair.flips) > _MOST_FLIPS:
        console.print(f"and {len(pair.flips) - _MOST_FLIPS} more in --html and --json")


def _write(path: Path, text: str) -> None:
    from calvin_eval.errors import UsageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
