"""A folder for a Unix socket: only this user can enter it, and its path is short enough."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from calvin_eval.errors import UsageError

LONGEST_ADDRESS = 103
"""Bytes of a socket's path; Linux takes 107, macOS 103."""

_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def make_socket_folder(name: str) -> Path:
    """Make a folder in which a socket of this name can be bound.

    It lies in the folder for temporary files, unless the path would be too long for a socket: then
    in the user's runtime folder or in one of the system's own temporary folders.

    Raises:
        UsageError: no folder is short enough and can be written.
    """
    for place in _places():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="calvin-eval-", dir=place))
            if len(os.fsencode(folder / name)) <= LONGEST_ADDRESS:
                return folder
            folder.rmdir()
    raise UsageError(
        f"expected a folder for a socket whose path has at most {LONGEST_ADDRESS} bytes; found "
        f"that {tempfile.gettempdir()} is too long, and that {', '.join(_SHORT_PLACES)} cannot be "
        "written. Set TMPDIR to a shorter folder."
    )


def _places() -> Iterator[str]:
    yield tempfile.gettempdir()
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield runtime
    yield from _SHORT_PLACES
