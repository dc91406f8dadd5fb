"""Temporary files that processes which were killed in the middle of one left behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def temporary_name(name: str, suffix: str) -> str:
    """A hidden name for a file until it is whole: `.NAME.PROCESS.SUFFIX`."""
    return f".{name}.{os.getpid()}.{suffix}"


def remove_remains(folder: Path, pattern: str = ".*.tmp") -> None:
    """Remove temporary files of processes that are gone, as far as that is allowed.

    Args:
        folder: where to look; may not exist.
        pattern: of their names, which are those of `temporary_name`.
    """
    for path in folder.glob(pattern):
        process = path.name.split(".")[-2]
        if process.isdigit() and not _alive(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # or another user's
    return True
