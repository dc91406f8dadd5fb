"""The pages of a leaderboard; text from bundles is escaped, and its control characters shown."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from calvin_eval.foreign.text import printable
from calvin_eval.results.board.board import Board, Row, Section, split_name
from calvin_eval.results.board.order import CONFIDENCE
from calvin_eval.results.compare import Comparison
from calvin_eval.results.compare_html import comparison_html
from calvin_eval.results.ledger import LEDGER
from calvin_eval.results.report.build import page_parts
from calvin_eval.results.report.text import NO_BREAK, counted, percent, ranges

_TEMPLATES = Path(__file__).parent / "templates"


class Pages:
    """Writes the pages of a board.

    Args:
        board: what they show.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def index(self) -> str:
        """The first page: all entries by split."""
        return _fill("index.html.j2", board=self._board)

    def entry(self, section: Section, row: Row) -> str:
        """The page of an entry."""
        pairs = [
            other if one is row else one for one, other in section.pairs() if row in (one, other)
        ]
        return _fill(
            "entry.html.j2",
            board=self._board, section=section, row=row, entry=row.entry, card=row.entry.model,
            others=pairs, siblings=self._board.siblings(row.entry),
            unchecked=[e for e in LEDGER if e.treatment == "not checked"],
            pair_name=lambda other: _pair_name(section, row, other),
        )  # fmt: skip

    @staticmethod
    def comparison(comparison: Comparison) -> str:
        """Two entries side by side."""
        return printable(comparison_html(comparison, ".", home="../index.html"))


def _pair_name(section: Section, row: Row, other: Row) -> str:
    first, second = sorted((row, other), key=section.rows.index)
    return f"{first.entry.key}--{second.entry.key}.html"


def _fill(template: str, **values: Any) -> str:
    parts = page_parts()
    parts["style"] += Markup((_TEMPLATES / "board.css").read_text(encoding="utf-8"))
    text = _environment().get_template(template).render(**parts, **values)
    return text.strip("\n") + "\n"


def magnitude(number: int | None) -> str:
    """7000000000 as `7 B`; empty if unknown."""
    if number is None:
        return ""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{NO_BREAK}{unit}"
    return str(number)


def ids(rows: tuple[tuple[int, int], ...], most: int = 12) -> str:
    """Ranges of chains as in `0-39, 41`, of many the first."""
    shown = ", ".join(ranges(sorted({a, b})) if b - a < 2 else _span(a, b) for a, b in rows[:most])
    return shown + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _span(first: int, last: int) -> str:
    return f"{first}\N{EN DASH}{last}"


def _printed(number: float) -> str:
    """A number with two decimals, or with the three that it has."""
    return f"{number:.3f}".removesuffix("0")


def _host(address: str) -> str:
    """Where a link leads, for people who look before they follow it."""
    return urlsplit(address).hostname or ""


def _inert(value: Any) -> Any:
    """Text without what a terminal or a reader's eyes would be led by."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_inert,
    )  # fmt: skip
    environment.filters |= {
        "counted": counted, "host": _host, "ids": ids, "magnitude": magnitude, "percent": percent,
        "printed": _printed, "split_name": split_name,
    }  # fmt: skip
    environment.globals["confidence"] = CONFIDENCE
    return environment
