"""Zip files from others: nothing of one is trusted before it is measured.

What a zip file's own tables say about sizes, names and kinds is checked against limits that stand
here, and what is unpacked is counted while it is unpacked.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import numpy as np

from calvin_eval.errors import RunFolderError
from calvin_eval.foreign.archives import ArchiveError, read_table

MAX_FILES: Final = 20_000
MAX_FILE_BYTES: Final = 512 * 2**20
MAX_TOTAL_BYTES: Final = 4 * 2**30 - 2**20
MAX_RATIO: Final = 250
"""Of unpacked to packed bytes, where a file is larger than `SMALL`; journals have about 10."""
SMALL: Final = 2**20
MAX_ACTIONS_BYTES: Final = 32 * 2**20
"""The actions of one chain, unpacked; ten subtasks of 360 steps have 0.2 MB."""

_END: Final = b"PK\x05\x06"
_END_SIZE: Final = 22
_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ZIP64_LOCATOR_SIZE: Final = 20
_ENTRY_BYTES: Final = 512  # of the table of contents, per file
_CHUNK: Final = 2**20
_MAX_ACTION_ARRAYS: Final = 128  # two for each of up to 50 subtasks
_ACTION_ARRAY: Final = re.compile(r"sub(\d{1,2})_(actions|kinds)\.npy")
_ENCRYPTED: Final = 0x1
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, NotImplementedError,
    EOFError, RuntimeError,
)  # fmt: skip


class BundleError(RunFolderError):
    """A bundle that is no such thing, was altered, or would do harm if it were unpacked."""

    exit_code = 1


@contextmanager
def open_zip(path: Path, allowed: re.Pattern[str]) -> Iterator[zipfile.ZipFile]:
    """A zip file whose table of contents is harmless.

    Args:
        path: the file.
        allowed: what every name in it has to match as a whole.

    Raises:
        BundleError: not a zip file, or one with too many files, or with a file that is too large,
            linked, encrypted, there twice, or of another name.
    """
    try:
        with open(path, "rb") as file:
            _check_end(file, str(path))
            with zipfile.ZipFile(file) as archive:
                _check_contents(archive, path, allowed)
                _check_table(file, str(path), MAX_FILES)
                yield archive
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise BundleError(f"{path} is no zip file, or a damaged one: {error}") from error


def _check_end(file: IO[bytes], where: str, most: int = MAX_FILES) -> None:
    """Before the table of contents is read into memory: how large does it say that it is?"""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_SIZE - _ZIP64_LOCATOR_SIZE))
    tail = file.read()
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise BundleError(
            f"{where}: expected a zip file that ends with its table of contents, found something "
            "else. Was it cut off on the way? Fetch it again."
        )
    count, table = struct.unpack("<HI", end[10:16])
    zip64 = tail[:-_END_SIZE][-_ZIP64_LOCATOR_SIZE:].startswith(_ZIP64_LOCATOR)
    if zip64 or count > most or table > most * _ENTRY_BYTES:
        raise BundleError(
            f"{where}: expected at most {most} files, found a table of contents for more. "
            "It is not unpacked."
        )


def _check_table(file: IO[bytes], where: str, most: int) -> None:
    """Make sure that every program that unpacks the file finds the same in it."""
    try:
        read_table(file, most)
    except ArchiveError as error:
        raise BundleError(f"{where} is damaged, or can be read in two ways: {error}") from error


def _check_contents(archive: zipfile.ZipFile, path: Path, allowed: re.Pattern[str]) -> None:
    entries = archive.infolist()
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry, path, allowed)
        if (name := entry.filename.lower()) in seen:  # some file systems know no case
            raise BundleError(f"{path}: expected every file once, found {name!r} twice")
        seen.add(name)
    if len(entries) > MAX_FILES or (total := sum(e.file_size for e in entries)) > MAX_TOTAL_BYTES:
        raise BundleError(
            f"{path}: expected at most {MAX_FILES} files and {MAX_TOTAL_BYTES} bytes, found "
            f"{len(entries)} files" + (f" and {total} bytes" if len(entries) <= MAX_FILES else "")
        )


def _check_entry(entry: zipfile.ZipInfo, path: Path, allowed: re.Pattern[str]) -> None:
    name = entry.orig_filename
    mode = entry.external_attr >> 16
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
        trouble = "a name that leads out of the folder"
    elif name != entry.filename or not allowed.fullmatch(name):
        trouble = "a file that has no place in a bundle"
    elif mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        trouble = "a link or a device instead of a file"
    elif entry.flag_bits & _ENCRYPTED:
        trouble = "an encrypted file"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        trouble = "a file compressed by another method than deflate"
    elif entry.file_size > MAX_FILE_BYTES:
        trouble = f"{entry.file_size} bytes in a file that may have {MAX_FILE_BYTES}"
    elif entry.file_size > max(SMALL, MAX_RATIO * entry.compress_size):
        trouble = f"a file that grows from {entry.compress_size} to {entry.file_size} bytes"
    else:
        return
    raise BundleError(f"{path}: found {trouble}: {name!r}. It is not unpacked.")


def chunks(archive: zipfile.ZipFile, name: str, most: int = MAX_FILE_BYTES) -> Iterator[bytes]:
    """The content of one file in pieces; whatever size the file claims, never more than `most`.

    Raises:
        BundleError: the file is damaged, or larger.
    """
    count = 0
    try:
        with archive.open(name) as file:
            while piece := file.read(_CHUNK):
                count += len(piece)
                if count > most:
                    raise BundleError(
                        f"{name!r} has more than the {most} bytes that it may have unpacked"
                    )
                yield piece
    except KeyError as error:
        raise BundleError(f"expected {name!r} in the bundle, found no such file") from error
    except _BROKEN as error:
        raise BundleError(f"{name!r} is damaged: {error}") from error


def check_actions_file(data: bytes, where: str) -> None:
    """Make sure that a file of actions can be decoded without harm.

    Args:
        data: the content of an `actions/NNNN.npz`.
        where: how an error calls the file.

    Raises:
        BundleError: it holds other things than numbers, or more of them than a chain can have.
    """
    room = MAX_ACTIONS_BYTES
    stream = io.BytesIO(data)
    _check_end(stream, where, _MAX_ACTION_ARRAYS)
    _check_table(stream, where, _MAX_ACTION_ARRAYS)
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            strange = [name for name in names if not _ACTION_ARRAY.fullmatch(name)]
            if strange or len(set(names)) < len(names) or len(names) > _MAX_ACTION_ARRAYS:
                raise BundleError(
                    f"{where}: expected sub0_actions.npy, sub0_kinds.npy and so on, each once; "
                    f"found {', '.join(map(repr, (strange or names)[:5]))}"
                )
            for name in names:
                room -= _check_array(archive, name, room, where)
    except _BROKEN as error:
        raise BundleError(f"{where} is damaged: {error}") from error


def _check_array(archive: zipfile.ZipFile, name: str, room: int, where: str) -> int:
    """Check one array's header against its content; returns its bytes."""
    content = b"".join(chunks(archive, name, room))
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise BundleError(f"{where}: expected arrays of format 1.0, found {version} in {name}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=1000)
    rest = len(content) - stream.tell()
    rows = name.endswith("_actions.npy")
    fine = (
        dtype.kind == "f" and len(shape) == 2 and shape[1] in (7, 8)
        if rows
        else dtype == np.uint8 and len(shape) == 1
    )
    if not fine or math.prod(shape) * dtype.itemsize != rest:
        expected = "(n, 7 or 8) floats" if rows else "(n,) bytes"
        raise BundleError(
            f"{where}: expected {expected} in {name}, found {dtype} of shape {shape} in {rest} "
            "bytes"
        )
    return len(content)
