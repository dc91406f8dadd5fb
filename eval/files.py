"""Files that are whole or not there, under all circumstances, and folders that are kept."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def temporary_name(name: str, suffix: str) -> str:
    """A hidden name for a file until it is whole: `.NAME.PROCESS.SUFFIX`."""
    return f".{name}.{os.getpid()}.{suffix}"


def write_atomic(path: Path, data: bytes) -> None:
    """Put the bytes under that name: all of them, durably, or none. May raise OSError."""
    with _written_beside(path, data) as temporary:
        os.replace(temporary, path)


def write_first(path: Path, data: bytes) -> None:
    """Put the bytes under that name, all of them or none, if nothing is there yet.

    Raises:
        FileExistsError: something is.
        OSError: the disk refuses.
    """
    with _written_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "xb") as file:
                file.write(data)


def backup_of(folder: Path) -> Path:
    """The first name `NAME.bak-N` beside the folder that is free."""
    number = 1
    while (backup := folder.with_name(f"{folder.name}.bak-{number}")).exists():
        number += 1
    return backup


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


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file with the bytes, on the disk, which goes if it was not moved away."""
    name = f"{path.name}.{threading.get_ident()}"  # two threads may write the same file
    temporary = path.with_name(temporary_name(name, "tmp"))
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # or another user's
    return True
