"""NumPy archives (`.npz`) whose sizes are checked before anything is allocated, without pickles."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.foreign.archives import ArchiveError, read_member, read_table

MAX_ARRAY: Final = 512 * 2**20
"""Bytes of an array, unless a caller says otherwise; an image of CALVIN has 0.12 MB."""

_HEADER: Final = 10_000


def read_arrays(
    source: Path | str | bytes, names: Iterable[str] | None = None, most: int = MAX_ARRAY
) -> dict[str, NDArray[Any]]:
    """Arrays of an `.npz` file, which may be read-only.

    Args:
        source: the file, or its content.
        names: the wanted arrays; all if None.
        most: the bytes that they may have together.

    Raises:
        ArchiveError: damaged, ambiguous, too large, or with a pickle in it.
        KeyError: a wanted array is missing; the message names those that are there.
        OSError: the file cannot be opened.
    """
    with _opened(source) as file:
        members = {m.name.removesuffix(".npy"): m for m in read_table(file)}
        wanted = list(members) if names is None else list(names)
        missing = [name for name in wanted if name not in members]
        if missing:
            raise KeyError(f"no array {missing[0]}, only {', '.join(sorted(members))}")
        if (total := sum(members[name].size for name in wanted)) > most:
            raise ArchiveError(f"expected at most {most} bytes of arrays, found {total}")
        return {name: to_array(read_member(file, members[name], most), name) for name in wanted}


def to_array(content: bytes, name: str) -> NDArray[Any]:
    """The array in an `.npy` file's content, which it shares.

    Args:
        content: of the file.
        name: how an error calls it.

    Raises:
        ArchiveError: damaged, or an array of pickled objects.
    """
    wide = content[6:7] != b"\1"
    start = 12 if wide else 10
    start += int.from_bytes(content[8:start], "little")
    if content[:6] != b"\x93NUMPY" or start > min(len(content), _HEADER):
        raise ArchiveError(f"{name} is no NumPy array")
    try:
        shape, fortran, dtype = _header(content[:start])
    except Exception as error:  # NumPy evaluates the header as a literal, which raises anything
        raise ArchiveError(f"the header of {name} is damaged") from error
    count = math.prod(shape)
    if dtype.hasobject:
        raise ArchiveError(f"{name} is an array of pickled objects, which may run code")
    if any(length < 0 for length in shape) or count * dtype.itemsize != len(content) - start:
        raise ArchiveError(
            f"{name} should be {dtype} of shape {shape}, found {len(content) - start} bytes"
        )
    array = np.frombuffer(content, dtype, count, start) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _opened(source: Path | str | bytes) -> AbstractContextManager[IO[bytes]]:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


@lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """All frames of a data set have the same few headers, and parsing one takes 50 us."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file)[0] == 1:
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
