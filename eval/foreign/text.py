"""Text of strangers, made harmless for a terminal, a line, and a table's cell."""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any, Final

MAX_MESSAGE: Final = 4000
"""Characters of an error that is shown; a name in it may have been made to fill the screen."""

_KEPT: Final = frozenset("\n\t")
_SPECIAL: Final = re.compile(r"[^ -~]")
_FORMULAS: Final = tuple("=+-@\t\r\n")


def printable(text: object, keep: frozenset[str] = _KEPT) -> str:
    r"""The text with everything that a terminal would obey written as `\x1b` and the like.

    That is control characters, marks that turn the direction of writing, halves of surrogate
    pairs, and line separators of Unicode.

    Args:
        text: anything; its `str` is taken.
        keep: control characters that stay.
    """
    return _SPECIAL.sub(
        lambda found: found[0] if _harmless(found[0], keep) else _escaped(found[0]), str(text)
    )


def one_line(text: object, most: int = MAX_MESSAGE) -> str:
    r"""The same in one line: line breaks are written as `\n`, and what is too long is cut."""
    return shortened(printable(text, frozenset()), most)


def shortened(text: str, most: int = MAX_MESSAGE) -> str:
    """The text, with all but its beginning and its end left out if it is longer than `most`."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def csv_cell(text: object) -> str:
    """The text for a cell of a CSV file: no program that opens it takes it for a formula."""
    line = printable(text, frozenset())
    return f"'{line}" if line.startswith(_FORMULAS) else line


def guard_warnings() -> None:
    """Let the warnings of this process show all of their text, and a terminal obey none of it."""
    warnings.formatwarning = _format_warning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None
) -> str:
    return f"{printable(filename)}:{lineno}: {category.__name__}: {printable(message)}\n"


def _harmless(char: str, keep: frozenset[str]) -> bool:
    # What is no letter yet in this version of Unicode may be one in the terminal's.
    return char.isprintable() or char in keep or unicodedata.category(char) in ("Zs", "Cn", "Co")


def _escaped(char: str) -> str:
    code = ord(char)
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
