"""`calvin-eval compare`: two or more runs of the same chains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from calvin_eval.cli.options import json_option, option, out_option
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from calvin_eval.results.compare import Comparison, Pair

_MOST_FLIPS, _MOST_TASKS = 10, 10
_GOOD, _BAD = "green", "bold red"


@click.command(short_help="Compare runs of the same chains with the first of them.")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN [RUN]...", type=click.Path(path_type=Path)
)  # fmt: skip
@option("--force", is_flag=True, help="Compare runs of different protocols; it will say so.")
@out_option("FILE", "Write the comparison too, as .html or .json.", multiple=True)
@option("--html", hidden=True, type=click.Path(path_type=Path))
@json_option
def compare(
    runs: tuple[Path, ...], force: bool, out: tuple[Path, ...], html: Path | None, as_json: bool
) -> None:
    """Compare runs of the same chains with the first of them.

    Everything is paired on the chain. Runs that differ in assets, revision, renderer or protocol
    are refused, naming each difference, unless --force is given.
    """
    from calvin_eval.results.compare import compare_runs

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
        style = "" if run.completed == run.planned else _BAD
        count = f"{run.completed} of {run.planned} chains completed"
        console.print(Text.assemble((run.name, "bold"), "  ", (count, style), "  ", run.policy))
    for pair in comparison.pairs:
        _print_pair(pair, console)


def _print_pair(pair: Pair, console: Console) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(f"{pair.other.name} against {pair.first.name}", style="bold"))
    for difference in pair.differences:
        console.print(Text.assemble(("  Forced: ", _BAD), "the runs differ in ", str(difference)))
    for remark in pair.remarks:
        console.print(Text(f"  {remark}", style="dim"))
    spread = pair.difference
    style = _GOOD if spread.low > 0 else _BAD if spread.high < 0 else "bold"
    console.print(
        Text.assemble(
            f"Average length of {pair.chains} common chains: {pair.first_length:.3f} and "
            f"{pair.other_length:.3f}, difference ",
            (f"{spread.estimate:+.3f}", style),
            f" (95 %: {spread.low:+.3f} to {spread.high:+.3f}; p = {_p(pair.p)})",
        )
    )
    console.print()
    console.print(_position_table(pair))
    console.print()
    console.print(_task_table(pair))
    console.print()
    _print_flips(pair, console)


def _position_table(pair: Pair) -> Table:
    table = _table("in a row", "first %", "other %", "difference", "95 %", "only one", "p")
    for row in pair.positions:
        spread = row.difference
        table.add_row(
            str(row.position),
            f"{100 * row.first:.1f}",
            f"{100 * row.other:.1f}",
            f"{100 * spread.estimate:+.1f}",
            f"{100 * spread.low:+.1f} to {100 * spread.high:+.1f}",
            f"{row.only_first}/{row.only_other}",
            _p(row.p),
        )
    return table


def _task_table(pair: Pair) -> Table:
    """The tasks that differ most; all of them are in the page and in the JSON."""
    table = _table("task", "first", "other", "both tried", "only one", "p", "p (Holm)")
    for row in pair.tasks[:_MOST_TASKS]:
        table.add_row(
            row.task,
            f"{row.first.success}/{row.first.total}",
            f"{row.other.success}/{row.other.total}",
            str(row.common),
            f"{row.only_first}/{row.only_other}",
            _p(row.p),
            _p(row.p_holm),
            style="bold" if row.p_holm < 0.05 else "",
        )
    if len(pair.tasks) > _MOST_TASKS:
        table.caption = f"and {len(pair.tasks) - _MOST_TASKS} more in --html and --json"
    return table


def _print_flips(pair: Pair, console: Console) -> None:
    up = sum(flip.other > flip.first for flip in pair.flips)
    down = len(pair.flips) - up
    console.print(f"{len(pair.flips)} chains went differently: {up} further, {down} less far")
    if not pair.flips:
        return
    table = _table("chain", "first", "broke off at", "other", "broke off at", "videos")
    for flip in pair.flips[:_MOST_FLIPS]:
        videos = [
            str(run.folder / video)
            for run, video in ((pair.first, flip.first_video), (pair.other, flip.other_video))
            if video
        ]
        table.add_row(
            str(flip.chain),
            str(flip.first),
            flip.first_broke or "all done",
            str(flip.other),
            flip.other_broke or "all done",
            "\n".join(videos),
        )
    console.print(table)
    if len(pair.flips) > _MOST_FLIPS:
        console.print(f"and {len(pair.flips) - _MOST_FLIPS} more in --html and --json")


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for place, heading in enumerate(headings):
        words = place == 0 or heading in ("broke off at", "videos")
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=place == 0)
    return table


def _p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _write(path: Path, text: str) -> None:
    from calvin_eval.errors import UsageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
