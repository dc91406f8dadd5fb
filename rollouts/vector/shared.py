"""Arrays that processes share: one block of memory without a name, freed with its last holder."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64  # bytes: no two arrays in one line of a cache


@dataclass(frozen=True)
class Field:
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes, rounded up."""
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return -(-size // _ALIGNMENT) * _ALIGNMENT


class SharedArrays:
    """Named arrays in memory that other processes have as well.

    Args:
        fields: by name; every process gives the same.
        descriptor: of the file of memory; a new one, all zeros, if None.

    Attributes:
        arrays: by name; they stay usable while somebody holds them.
    """

    def __init__(self, fields: Mapping[str, Field], descriptor: int | None = None) -> None:
        self._descriptor = _memory_file() if descriptor is None else descriptor
        total = sum(field.size for field in fields.values())
        if descriptor is None:
            os.ftruncate(self._descriptor, total)
        memory = mmap.mmap(self._descriptor, total)
        self.arrays: dict[str, NDArray[Any]] = {}
        offset = 0
        for name, field in fields.items():
            self.arrays[name] = np.ndarray(field.shape, field.dtype, memory, offset)
            offset += field.size

    def give(self, line: Any, pid: int) -> None:
        """Pass the memory over a line to the process at its other end."""
        send_handle(line, self._descriptor, pid)

    @classmethod
    def take(cls, line: Any, fields: Mapping[str, Field]) -> SharedArrays:
        """What `give` passed, in the other process."""
        taken = cls(fields, recv_handle(line))
        taken.seal()
        return taken

    def seal(self) -> None:
        """Give it to nobody from now on."""
        os.close(self._descriptor)


def _memory_file() -> int:
    """A descriptor of a file that has no name and, where the system can, is never on a disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("calvin_eval")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
