"""Members of an `.npz` file, and nothing else of it.

A frame of CALVIN has up to nine arrays and a training reads three or four. Members lie one after
another in a zip archive, so the wanted ones are read by their position; the others are neither
read nor inflated. What `numpy.savez` does not write is left to `numpy.load`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.foreign.archives import ArchiveError
from calvin_eval.foreign.arrays import to_array

Array = NDArray[Any]

_TAIL = 2048
"""Bytes at the end that are read at once: the directory of nine members takes about 600."""
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SLACK = 128
"""A member's own header repeats its name and may have an extra field, 20 bytes in NumPy's files."""
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1


class _Unusual(Exception):
    """An archive that this module does not read."""


def read_npz(path: str, names: Iterable[str]) -> dict[str, Array]:
    """Arrays of an `.npz` file; pickled ones are refused.

    Args:
        path: the file.
        names: the wanted members, without `.npy`.

    Returns:
        Name -> array, which may be read-only.

    Raises:
        KeyError: a member that the file lacks.
        OSError: the file cannot be opened.
        ValueError: damage (also `zlib.error` and `zipfile.BadZipFile`), or a pickle.
    """
    wanted = list(names)
    try:
        return _read(path, wanted)
    except _Unusual:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted}


def _read(path: str, names: list[str]) -> dict[str, Array]:
    file = os.open(path, os.O_RDONLY)
    try:
        places = _directory(file, os.fstat(file).st_size)
        missing = [name for name in names if name not in places]
        if missing:
            raise KeyError(f"no array {missing[0]}, only {', '.join(sorted(places))}")
        return {name: to_array(_member(file, places[name]), name) for name in names}
    finally:
        os.close(file)


def _directory(file: int, size: int) -> dict[str, tuple[int, ...]]:
    """Name -> method, checksum, packed size, size, position and length of the name."""
    tail = os.pread(file, _TAIL, max(0, size - _TAIL))
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise _Unusual
    _, _, _, _, count, length, start, _ = _END.unpack_from(tail, at)
    if start == 0xFFFFFFFF or start + length > size:
        raise _Unusual
    at = start - max(0, size - _TAIL)
    if at < 0:
        tail, at = os.pread(file, size - start, start), 0
    places: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        if at + _ENTRY.size > len(tail) or tail[at : at + 4] != b"PK\1\2":
            raise _Unusual
        entry = _ENTRY.unpack_from(tail, at)
        flags, method, crc, packed, full = entry[3], entry[4], *entry[7:10]
        name_length, extra, comment, position = *entry[10:13], entry[16]
        if flags & _ENCRYPTED or 0xFFFFFFFF in (packed, full, position):
            raise _Unusual
        at += _ENTRY.size
        name = tail[at : at + name_length].decode("utf-8", "replace").removesuffix(".npy")
        if name in places:
            raise ArchiveError(f"expected every array once, found {name!r} twice")
        places[name] = (method, crc, packed, full, position, name_length)
        at += name_length + extra + comment
    return places


def _member(file: int, place: tuple[int, ...]) -> bytes:
    method, crc, packed, full, position, name_length = place
    data = os.pread(file, _LOCAL.size + name_length + _SLACK + packed, position)
    if len(data) < _LOCAL.size or data[:4] != b"PK\3\4":
        raise _Unusual
    *_, own_name, extra = _LOCAL.unpack_from(data)
    start = _LOCAL.size + own_name + extra
    body: Any = memoryview(data)[start : start + packed]
    if len(body) < packed:
        body = os.pread(file, packed, position + start)
    if method == _DEFLATED:
        content = zlib.decompress(body, -zlib.MAX_WBITS, full)
    elif method == _STORED:
        content = bytes(body)
    else:
        raise _Unusual
    if len(content) != full or zlib.crc32(content) != crc:
        raise ValueError("a member's checksum is wrong")
    return content
