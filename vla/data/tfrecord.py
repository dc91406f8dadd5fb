"""TFRecord files of tf.train.Example messages, read without TensorFlow.

A file is a row of records, each framed by its length and by checksums of both (TensorFlow,
record_writer); an Example maps names to lists of bytes, floats or whole numbers (TensorFlow,
example.proto). Lengths come from strangers, so that all are held against what is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError

MOST_BYTES = 1 << 30
"""Of a record."""

MOST_FEATURES = 4096

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""Values of a name; whole numbers are int64, and every list may be empty."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Place(NamedTuple):
    """Where a record's message lies.

    Attributes:
        path: the file.
        start: its first byte.
        length: in bytes.
    """

    path: Path
    start: int
    length: int


def records(path: Path) -> Iterator[Place]:
    """The records of a file, by their frames alone.

    Raises:
        UsageError: it cannot be read, or is no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while file.tell() < size:
                length = _length(file, path)
                start = file.tell()
                if length > MOST_BYTES or start + length + 4 > size:
                    raise _damaged(path, f"a record of {length} bytes at byte {start - 12}")
                yield Place(path, start, length)
                file.seek(start + length + 4)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _length(file: BinaryIO, path: Path) -> int:
    head = file.read(12)
    if len(head) < 12 or struct.unpack("<I", head[8:])[0] != masked_crc(head[:8]):
        raise _damaged(path, f"no record at byte {file.tell() - len(head)}")
    return int(struct.unpack("<Q", head[:8])[0])


def read_record(place: Place, *, check: bool = False) -> bytes:
    """A record's message.

    Args:
        place: from `records`.
        check: whether its own checksum is computed, at some megabytes a second.

    Raises:
        UsageError: it cannot be read, or its checksum is another.
    """
    try:
        with place.path.open("rb") as file:
            file.seek(place.start)
            data, crc = file.read(place.length), file.read(4)
    except OSError as error:
        raise UsageError(f"{place.path}: {error.strerror}") from error
    wrong = check and struct.unpack("<I", crc)[0] != masked_crc(data)
    if len(data) < place.length or len(crc) < 4 or wrong:
        raise _damaged(place.path, f"a broken record at byte {place.start}")
    return data


def _damaged(path: Path, found: str) -> UsageError:
    return UsageError(f"{path}: expected a TFRecord file, found {found}")


def masked_crc(data: bytes) -> int:
    """TensorFlow's checksum: CRC-32C, turned by 15 bits, plus a constant."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


def parse_example(message: bytes, wanted: Sequence[str] | None = None) -> dict[str, Feature]:
    """The features of a tf.train.Example.

    Args:
        message: from `read_record`.
        wanted: names; all if None.

    Raises:
        UsageError: no such message.
    """
    found: dict[str, Feature] = {}
    for number, features in _fields(memoryview(message)):
        if number != 1:
            continue
        for count, (inner, entry) in enumerate(_fields(_bytes(features))):
            if count >= MOST_FEATURES:
                raise UsageError(f"Example: expected at most {MOST_FEATURES} features")
            if inner == 1:
                name, value = _entry(_bytes(entry))
                if wanted is None or name in wanted:
                    found[name] = _feature(value)
    return found


def _entry(entry: memoryview) -> tuple[str, memoryview]:
    name, value = "", memoryview(b"")
    for number, content in _fields(entry):
        if number == 1:
            name = bytes(_bytes(content)).decode("utf-8", "replace")
        elif number == 2:
            value = _bytes(content)
    return name, value


def _feature(message: memoryview) -> Feature:
    for kind, content in _fields(message):
        values = [value for number, value in _fields(_bytes(content)) if number == 1]
        if kind == 1:
            return [bytes(_bytes(value)) for value in values]
        if kind == 2:
            return _floats(values)
        if kind == 3:
            return _numbers(values)
    return []


def _floats(values: Sequence[int | memoryview]) -> NDArray[np.float32]:
    """Packed floats, or one by one as 32-bit fields."""
    parts = []
    for value in values:
        if isinstance(value, int):
            parts.append(np.frombuffer(struct.pack("<I", value), "<f4"))
        elif len(value) % 4:
            raise UsageError(f"Example: expected floats of 4 bytes, found {len(value)} bytes")
        else:
            parts.append(np.frombuffer(value, "<f4"))
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def _numbers(values: Sequence[int | memoryview]) -> NDArray[np.int64]:
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            found.append(number)
    signed = [number - (1 << 64) if number >> 63 else number for number in found]
    return np.array(signed, np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a protocol buffer's message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise UsageError(f"Example: expected a protocol buffer, found a field of kind {kind}")
        if at + size > len(message):
            raise UsageError(
                f"Example: expected {size} bytes of a field, found {len(message) - at}"
            )
        content = message[at : at + size]
        at += size
        yield number, content if kind == _LENGTH else int.from_bytes(content, "little")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise UsageError("Example: expected a whole number of at most 10 bytes")


def _bytes(content: int | memoryview) -> memoryview:
    if isinstance(content, int):
        raise UsageError("Example: expected a field with a length, found a number")
    return content
