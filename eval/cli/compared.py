"""Tables of `calvin-eval compare`, and what it prints of published results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from calvin_eval.results.metrics import Count
    from calvin_eval.results.paired import Contrast
    from calvin_eval.results.unpaired import Unpaired

GOOD, BAD = "green", "bold red"


def print_unpaired(pair: Unpaired, console: Console) -> None:
    """Rates of two sides, of which one at least is a published result."""
    from rich.text import Text

    console.print()
    console.print(Text(f"{pair.other.name} against {pair.first.name}, unpaired", style="bold"))
    for remark in pair.remarks:
        console.print(Text(f"  {remark}", style="dim"))
    one, other, spread = pair.first.average_length, pair.other.average_length, pair.difference
    style = "bold" if spread is None else GOOD if spread.low > 0 else BAD if spread.high < 0 else ""
    console.print(
        Text.assemble(
            f"Average length: {one:.3f} and {other:.3f}, difference ",
            (f"{other - one:+.3f}", style),
            f" (95 %: {_span(spread, 1, 3)})",
        )
    )
    console.print()
    rows = table("in a row", "first %", "other %", "difference", "95 %")
    for row in pair.positions:
        rows.add_row(
            str(row.position),
            f"{100 * row.first:.1f}",
            f"{100 * row.other:.1f}",
            f"{100 * (row.other - row.first):+.1f}",
            _span(row.difference, 100, 1),
        )
    console.print(rows)
    if not pair.tasks:
        return
    console.print()
    rows = table("task", "first", "first %", "other", "other %")
    for task in pair.tasks:
        rows.add_row(task.task, *_counted(task.first), *_counted(task.other))
    rows.caption = "of each side's own attempts: not the same ones, so not tested"
    console.print(rows)


def _counted(count: Count | None) -> tuple[str, str]:
    if count is None or count.rate is None:
        return "", ""
    return f"{count.success}/{count.total}", f"{100 * count.rate:.1f}"


def _span(spread: Contrast | None, scale: float, digits: int) -> str:
    if spread is None:
        return "not known"
    return f"{scale * spread.low:+.{digits}f} to {scale * spread.high:+.{digits}f}"


def table(*headings: str) -> Table:
    """An empty table; the first column and those of words are on the left."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for place, heading in enumerate(headings):
        words = place == 0 or heading in ("broke off at", "videos")
        justify: Literal["left", "right"] = "left" if words else "right"
        made.add_column(heading, justify=justify, overflow="fold", no_wrap=place == 0)
    return made


def p_text(p: float) -> str:
    """A p-value as it is printed."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"
