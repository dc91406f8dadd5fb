r"""Lines of text on standard output and standard error: all of a text is shown, none is obeyed.

Names, instructions, errors and remarks come from files, servers and policies. Whatever of them is
printed goes through here or through `terminal`, and control characters appear as `\x1b` instead of
doing what they say.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from calvin_eval.foreign.text import guard_warnings, printable


def say(text: object, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print a text as `click.secho` does, with all of it shown.

    Args:
        text: to be printed.
        err: on standard error instead of standard output.
        nl: end it with a line break.
        style: of `click.style`.
    """
    click.secho(printable(text), err=err, nl=nl, **style)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def guard_logs() -> None:
    """Send log records and warnings of this process to standard error, with all of them shown."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    guard_warnings()
