"""How the command line begins and ends: streams that are there, one line per error, exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback

import click

from calvin_eval.config.upstream import answer
from calvin_eval.console.saying import OutputGone, say
from calvin_eval.errors import UsageError
from calvin_eval.foreign.text import one_line, shortened

EXIT_USAGE, EXIT_DEFECT, EXIT_INTERRUPTED = 2, 70, 130


def open_streams() -> None:
    """Make sure that the standard streams exist and can be written whatever is printed.

    A process may be started with them closed: the next files that are opened would take their
    places, and be written into by libraries that print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_folder() -> None:
    """Raise UsageError if the current folder is gone, where no path means anything."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "expected a current folder, found that it was removed: change to another one"
        ) from error


def close_output() -> int | None:
    """Write what is left for standard output; the exit code if nobody takes it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return abandon_output(OutputGone(error).reason)
    return None


def abandon_output(reason: str | None) -> int:
    """Let whatever else is printed go nowhere; returns the exit code.

    Args:
        reason: why it cannot be written; None if its reader went away, which is no error.
    """
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    if reason is None:
        return EXIT_INTERRUPTED
    tell(f"error: what was to be printed cannot be written: {reason}")
    return EXIT_USAGE


def tell(text: str) -> None:
    """Say one line on standard error, if it can be written."""
    with contextlib.suppress(OutputGone):
        say(shortened(text), err=True)


def shown(error: click.ClickException) -> str:
    """What click would print of an error, and of another script's option what stands for it."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        name = error.option_name
        if error.ctx.command.name == "run" and (said := answer(name)) is not None:
            error = click.UsageError(f"No such option: {name}. Here it is {said}.", error.ctx)
    text = io.StringIO()
    error.show(text)
    return text.getvalue().rstrip("\n")


def report_defect(error: BaseException) -> int:
    """Say in one line that something went wrong in calvin-eval, with the traceback in a file."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    where = "could not be kept"
    with contextlib.suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="calvin-eval-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
        where = f"is in {path}"
    tell(
        f"error: {type(error).__name__}: {one_line(error, 300)}. This is a defect of calvin-eval; "
        f"the traceback {where}: please report it."
    )
    return EXIT_DEFECT
