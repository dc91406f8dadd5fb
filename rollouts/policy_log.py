"""What policies print, in one bounded file of the run folder."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from pathlib import Path
from typing import IO

NAME = "policy.log"
"""Of the file in a run folder."""

MOST_BYTES = 2**20
"""Of the first lines that are kept, and of the last ones."""


class PolicyLog:
    """Keeps the first and the last lines that policies print; what lies between is counted.

    Lines that come before there is a file wait for it. Nothing is written if nothing is printed.

    Args:
        most: bytes of the first lines, and of the last ones.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._first: list[bytes] = []
        self._room = most
        self._last: deque[bytes] = deque()
        self._held = 0
        self._dropped = 0
        self._lock = threading.Lock()

    def keep(self, path: Path) -> None:
        """Write to a file, behind what it may hold already."""
        with self._lock:
            self._path = path
            first, self._first = self._first, []
            for line in first:
                self._write(line)

    def add(self, name: str, line: str) -> None:
        """Take a line.

        Args:
            name: who printed it.
            line: the text, without its end.
        """
        whole = f"[{name}] {line}\n".encode(errors="backslashreplace")
        with self._lock:
            if not self._last and len(whole) <= self._room:
                self._room -= len(whole)
                self._write(whole)
                return
            self._last.append(whole)
            self._held += len(whole)
            while self._held > self._most:
                self._held -= len(self._last.popleft())
                self._dropped += 1

    def close(self) -> None:
        """Write the last lines."""
        with self._lock:
            if self._dropped:
                self._write(f"[... {self._dropped} lines are left out ...]\n".encode())
            for line in self._last:
                self._write(line)
            self._last.clear()
            self._dropped = self._room = 0
            if self._file is not None:
                self._file.close()
            self._path = self._file = None

    def _write(self, line: bytes) -> None:
        if self._path is None:
            self._first.append(line)
            return
        with contextlib.suppress(OSError):  # a full disk is said where it matters
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
