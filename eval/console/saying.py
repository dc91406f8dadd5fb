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


class OutputGone(Exception):
    """What is printed cannot be written. Not an OSError, which click would make exit code 1.

    Attributes:
        reason: why, in a few words; None if nobody reads it any more.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        gone = isinstance(error, BrokenPipeError)
        self.reason = None if gone else error.strerror or str(error)


def say(text: object, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print a text as `click.secho` does, with all of it shown.

    Args:
        text: to be printed.
        err: on standard error instead of standard output.
        nl: end it with a line break.
        style: of `click.style`.
    """
    try:
        click.secho(printable(text), err=err, nl=nl, **style)
    except OSError as error:
        raise OutputGone(error) from error


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def guard_logs() -> None:
    """Send log records and warnings of this process to standard error, with all of them shown."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    guard_warnings()
