"""Zip files that every reader understands in the same way.

A zip file says some things twice, and readers differ in which of the two they believe: Python's
`zipfile` takes the last of two members with one name, PyTorch the first; one shifts positions that
do not fit, another does not; one compares names with regard to case, another without. So a file
can show a checker one content and its user another. The table of contents is read here by its
bytes, and a file that two readers could understand differently is refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Final

MAX_MEMBERS: Final = 200_000
MAX_NAME: Final = 4096
MAX_INFLATED: Final = 4 * 2**30
"""Bytes of all compressed members together; what is stored as it is cannot grow."""

STORED: Final = 0
DEFLATED: Final = 8

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_FULL16: Final = 0xFFFF
_FULL32: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_UTF8: Final = 0x800
_ZIP64_FIELD: Final = 0x0001
_OTHER_NAME_FIELD: Final = 0x7075  # newer versions of zipfile let it replace the name
_CHUNK: Final = 2**20


class ArchiveError(ValueError):
    """A zip file that is damaged, that can be read in two ways, or that is too large."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path, with `/` between the parts.
        method: `STORED` or `DEFLATED`.
        crc: CRC-32 of its content.
        packed: its bytes in the archive.
        size: its bytes unpacked.
        header: position of its own header in the archive.
        start: position of its content.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int
    start: int = -1


def read_table(file: IO[bytes], most: int = MAX_MEMBERS) -> tuple[Member, ...]:
    """The members of a zip archive, in the order of its table of contents.

    Args:
        file: the archive, opened for reading bytes; its position is moved.
        most: the number of members that it may have.

    Raises:
        ArchiveError: damaged, ambiguous, or with more or larger members than it may have.
        OSError: it cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    count, length, start = _find_table(file, size, most)
    file.seek(start)
    table = file.read(length)
    members: list[Member] = []
    at = 0
    while at < length:
        member, at = _entry(table, at)
        members.append(_with_start(file, member))
    if len(members) != count:
        raise ArchiveError(f"expected {count} members, found {len(members)}")
    _check_names(members)
    _check_places(members, start)
    return tuple(members)


def top_folder(members: Iterable[Member]) -> str:
    """The one folder that all members lie in; PyTorch takes that of the first for all.

    Raises:
        ArchiveError: they lie in several, or in none.
    """
    tops = sorted({member.name.partition("/")[0] for member in members})
    flat = [member.name for member in members if "/" not in member.name]
    if len(tops) != 1 or flat:
        found = flat[:1] or tops[:3]
        raise ArchiveError(
            f"expected all members in one folder, found {', '.join(found) or 'none'}"
        )
    return tops[0]


def read_pieces(file: IO[bytes], member: Member, most: int | None = None) -> Iterator[bytes]:
    """The content of a member, in pieces; its size and checksum are checked at the end.

    Args:
        file: the archive.
        member: from its table of contents.
        most: the bytes that it may have unpacked.

    Raises:
        ArchiveError: damaged, or larger than it says or may be.
    """
    if most is not None and member.size > most:
        raise ArchiveError(f"{member.name} has {member.size} bytes, it may have {most}")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
    file.seek(member.start)
    left, size, crc = member.packed, 0, 0
    while left or (inflate and not inflate.eof):
        packed = file.read(min(left, _CHUNK))
        if not packed:
            raise ArchiveError(f"{member.name} breaks off")
        left -= len(packed)
        for piece in _inflated(inflate, packed, member) if inflate else (packed,):
            size += len(piece)
            if size > member.size:
                raise ArchiveError(f"{member.name} has more bytes than the {member.size} it names")
            crc = zlib.crc32(piece, crc)
            yield piece
    if size != member.size or crc != member.crc:
        raise ArchiveError(f"wrong checksum of {member.name}")


def read_member(file: IO[bytes], member: Member, most: int) -> bytes:
    """The content of a member of at most `most` bytes.

    Raises:
        ArchiveError: damaged, or larger.
    """
    return b"".join(read_pieces(file, member, most))


def _inflated(inflate: zlib._Decompress, packed: bytes, member: Member) -> Iterator[bytes]:
    try:
        while packed:
            yield inflate.decompress(packed, _CHUNK)
            packed = inflate.unconsumed_tail
            if inflate.unused_data:
                raise ArchiveError(f"{member.name} has bytes behind its end")
    except zlib.error as error:
        raise ArchiveError(f"{member.name} is damaged: {error}") from error


def _find_table(file: IO[bytes], size: int, most: int) -> tuple[int, int, int]:
    """Number of members, length and position of the table, from the record at the very end."""
    at = size - _END.size
    if at < 0:
        raise ArchiveError("expected a zip file, found too few bytes for one")
    file.seek(at)
    mark, disk, table_disk, here, count, length, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6" or comment:
        raise ArchiveError("File is not a zip file, or has bytes behind its end")
    if disk or table_disk or here != count:
        raise ArchiveError("expected a zip file in one part")
    wide = _wide_table(file, at)
    if wide is not None:
        narrow = zip((count, length, start), (_FULL16, _FULL32, _FULL32), wide[:3], strict=True)
        if any(value not in (full, real) for value, full, real in narrow):
            raise ArchiveError("its two ends contradict each other")
        (count, length, start), at = wide[:3], wide[3]
    elif count == _FULL16 or _FULL32 in (length, start):
        raise ArchiveError("a part of its table of contents is missing")
    if count > most or length > count * (_ENTRY.size + 3 * MAX_NAME):
        raise ArchiveError(f"expected at most {most} members, found a table for {count}")
    if start + length != at:
        raise ArchiveError(f"expected its table of contents before byte {at}, found {start}")
    return count, length, start


def _wide_table(file: IO[bytes], at: int) -> tuple[int, int, int, int] | None:
    """Number, length and position from the ZIP64 end record, and where that begins; or None."""
    at -= _LOCATOR.size
    if at < 0:
        return None
    file.seek(at)
    mark, disk, position, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != b"PK\6\7":
        return None
    at -= _END64.size
    if at < 0 or position != at or disk or disks != 1:
        raise ArchiveError("expected its second end record beside the first")
    file.seek(at)
    mark, rest, _, _, *disks_, here, count, length, start = _END64.unpack(file.read(_END64.size))
    if mark != b"PK\6\6" or rest != _END64.size - 12 or any(disks_) or here != count:
        raise ArchiveError("its second end record is damaged")
    return count, length, start, at


def _entry(table: bytes, at: int) -> tuple[Member, int]:
    """The member at a position of the table, and where the next one begins."""
    if at + _ENTRY.size > len(table):
        raise ArchiveError("its table of contents breaks off")
    fields = _ENTRY.unpack_from(table, at)
    mark, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
    name_end = at + _ENTRY.size + fields[10]
    extra_end = name_end + fields[11]
    if mark != b"PK\1\2" or extra_end + fields[12] > len(table):
        raise ArchiveError("its table of contents is damaged")
    name = _name(table[at + _ENTRY.size : name_end], flags)
    if flags & _ENCRYPTED or method not in (STORED, DEFLATED) or fields[13]:
        raise ArchiveError(f"{name} is encrypted, or packed by another method than deflate")
    extra = table[name_end:extra_end]
    full, packed, place = _sizes((fields[9], fields[8], fields[16]), extra, name)
    if method == STORED and packed != full:
        raise ArchiveError(f"{name} has two sizes, {packed} and {full}")
    member = Member(name=name, method=method, crc=crc, packed=packed, size=full, header=place)
    return member, extra_end + fields[12]


def _name(raw: bytes, flags: int) -> str:
    """A member's name, if it is a plain path that every reader takes for the same."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"the name {raw[:100]!r} cannot be read") from error
    parts = name.split("/")
    if "\\" in name or any(part in ("", ".", "..") for part in parts) or len(raw) > MAX_NAME:
        raise ArchiveError(f"expected names of files, found {name[:100]!r}")
    if not name.isprintable():
        raise ArchiveError(f"expected names that can be printed, found {name[:100]!r}")
    return name


def _sizes(narrow: tuple[int, int, int], extra: bytes, name: str) -> tuple[int, int, int]:
    """Size, packed size and position: 32 bits of the entry, or 64 of its extra field."""
    wide: bytes | None = None
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        content = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == _OTHER_NAME_FIELD or (kind == _ZIP64_FIELD and wide is not None):
            raise ArchiveError(f"{name} has a second name or size")
        if kind == _ZIP64_FIELD:
            wide = content
    missing = sum(value == _FULL32 for value in narrow)
    if at != len(extra) or len(wide or b"") < 8 * missing:
        raise ArchiveError(f"the sizes of {name} are damaged")
    values = iter(struct.unpack_from(f"<{missing}Q", wide or b""))
    size, packed, start = (next(values) if value == _FULL32 else value for value in narrow)
    return size, packed, start


def _with_start(file: IO[bytes], member: Member) -> Member:
    """The member with the position of its content, once its own header agrees with the table."""
    file.seek(member.header)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise ArchiveError(f"{member.name} lies behind the end")
    mark, _, flags, method, *_, name_length, extra = _LOCAL.unpack(header)
    own = file.read(name_length)
    if mark != b"PK\3\4" or own != member.name.encode() or method != member.method:
        raise ArchiveError(f"{member.name} is something else in its place")
    if flags & _ENCRYPTED:
        raise ArchiveError(f"{member.name} is encrypted")
    return replace(member, start=member.header + _LOCAL.size + name_length + extra)


def _check_names(members: Iterable[Member]) -> None:
    seen: set[str] = set()
    for member in members:
        if (name := member.name.lower()) in seen:  # PyTorch's reader and some disks know no case
            raise ArchiveError(f"expected every member once, found {member.name!r} twice")
        seen.add(name)


def _check_places(members: Iterable[Member], table: int) -> None:
    """Contents follow one another, from the first byte on, and none grows without bounds."""
    end = 0
    for member in sorted(members, key=lambda member: member.header):
        # The end of a truncated archive can be a whole archive that was stored in it.
        if end == 0 and member.header:
            raise ArchiveError(f"expected it to start at byte 0, found {member.header}")
        if member.header < end or member.start + member.packed > table:
            raise ArchiveError(f"{member.name} lies where something else lies")
        end = member.start + member.packed
    inflated = sum(member.size for member in members if member.method == DEFLATED)
    if inflated > MAX_INFLATED:
        raise ArchiveError(f"expected at most {MAX_INFLATED} bytes, found {inflated}")
