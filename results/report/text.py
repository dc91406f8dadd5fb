"""How numbers and foreign text are written in a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from calvin_eval.results.intervals import Interval

NO_BREAK, EN_DASH = "\N{NO-BREAK SPACE}", "\N{EN DASH}"


def percent(share: float, digits: int = 1) -> str:
    """A share of 0..1 as in `94.1 %`."""
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def span(interval: Interval, digits: int = 2, scale: float = 1) -> str:
    """An interval as in `3.41-3.61`, with an en dash."""
    return f"{scale * interval.low:.{digits}f}{EN_DASH}{scale * interval.high:.{digits}f}"


def duration(seconds: float) -> str:
    """A time as in `2 h 05 min`, `3 min 20 s` or `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min {rest:02d}{NO_BREAK}s"
    return f"{minutes // 60}{NO_BREAK}h {minutes % 60:02d}{NO_BREAK}min"


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in `1 chain` and `2 chains`."""
    return f"{number}{NO_BREAK}{noun}{'' if number == 1 else 's'}"


def code(text: object) -> str:
    """Foreign text as a Markdown code span: neither markup nor a mention can come of it.

    Line breaks become spaces.
    """
    line = " ".join(str(text).split()) or " "
    runs = [len(run) for run in re.findall("`+", line)]
    fence = "`" * (max(runs, default=0) + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: object) -> str:
    """Foreign text as a code span in a Markdown table, where bars would end the cell."""
    return code(text).replace("|", r"\|")


def soft(text: object) -> Markup:
    """Foreign text for HTML, escaped, with places after underscores where a line may break."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers as in `0-39, 41`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}{EN_DASH}{b}" if a < b else str(a) for a, b in parts)
