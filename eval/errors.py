"""Errors that are the user's to fix, and their exit codes.

Every folder may import this module; it imports nothing of ours. A message says what was
expected, what was found and what to do; the command line prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CalvinEvalError(Exception):
    """Base of all errors that calvin-eval raises on purpose.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code = 2

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes by their message, whatever their constructor takes."""
        return restored, (type(self), str(self), self.__dict__)


def restored(
    kind: type[CalvinEvalError], message: str, attributes: dict[str, object]
) -> CalvinEvalError:
    """The error that another process raised."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(attributes)
    return error


class UsageError(CalvinEvalError):
    """A command line, an option or an invalid configuration value."""


class PluginError(UsageError):
    """What another package adds cannot be used: it does not import, or is not what it should be."""


class UnknownNameError(UsageError):
    """A name that is not among the known ones; the message suggests the nearest."""

    def __init__(self, kind: str, name: object, known: Iterable[object]) -> None:
        names = [str(k) for k in known]
        near = get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {str(name)!r}: expected one of {', '.join(names)}.{hint}")


class AssetError(CalvinEvalError):
    """An asset pack or one of its files is missing, altered or unreadable."""


class RenderError(CalvinEvalError):
    """A renderer that cannot draw here, or a camera that does not exist."""


class InvalidActionError(CalvinEvalError, ValueError):
    """An action that the simulator refuses; the world is left as it was."""


class InvalidStateError(CalvinEvalError, ValueError):
    """A robot_obs or scene_obs that cannot be reset to; the world is left as it was."""


class CheckpointError(CalvinEvalError):
    """A policy that cannot be recognised, loaded or trusted."""


class PolicyError(CalvinEvalError):
    """A policy that broke its contract while running (wrong shape, wrong type)."""


class RunFolderError(CalvinEvalError):
    """A run folder that exists already, is damaged, or has a foreign schema version."""
