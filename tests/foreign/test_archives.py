"""Zip files that readers could understand in two ways, and those that ordinary programs write."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest

from calvin_eval.foreign import archives
from calvin_eval.foreign.archives import (
    ArchiveError,
    read_member,
    read_pieces,
    read_table,
    top_folder,
)


def written(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, **how) -> bytearray:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method, **how) as archive:
        warnings.simplefilter("ignore", UserWarning)  # about names that are there twice
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return bytearray(stream.getvalue())


def table(data: bytes | bytearray):
    return read_table(io.BytesIO(bytes(data)))


def test_what_zipfile_writes_is_read() -> None:
    files = {"a/one.txt": b"1" * 100_000, "a/b/two": b"", "a/ünï": bytes(range(256))}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO(bytes(written(*files.items(), method=method)))
        members = read_table(stream)
        assert {m.name: read_member(stream, m, 10**6) for m in members} == files
        assert top_folder(members) == "a"


def test_what_numpy_and_streams_write_is_read() -> None:
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, x=np.arange(9), y=np.zeros((3, 4)))
        (x, _) = read_table(stream)
        content = io.BytesIO(read_member(stream, x, 1000))
        np.testing.assert_array_equal(np.load(content), np.arange(9))

    class Pipe(io.RawIOBase):  # a stream without positions makes zipfile write sizes afterwards
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"text" * 99)
    stream = io.BytesIO(bytes(pipe.data))
    assert read_member(stream, read_table(stream)[0], 1000) == b"text" * 99


def test_tables_of_64_bits_are_read(monkeypatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    data = written(("a/x", b"0123456789" * 9), ("a/y", b"1"))
    assert b"PK\6\7" in data
    stream = io.BytesIO(bytes(data))
    assert read_member(stream, read_table(stream)[0], 1000) == b"0123456789" * 9

    at = data.index(b"PK\6\7")
    moved = data[:at] + data[at : at + 8] + struct.pack("<Q", 3) + data[at + 16 :]
    with pytest.raises(ArchiveError, match="second end record"):
        table(moved)
    lying = bytearray(data)
    lying[-12:-10] = struct.pack("<H", 1)  # the count of members in the first end record
    lying[-14:-12] = struct.pack("<H", 1)
    with pytest.raises(ArchiveError, match="contradict"):
        table(lying)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("m/code/a.py", "m/code/a.py"), "every member once"),
        (("m/code/a.py", "m/CODE/A.py"), "every member once"),
        (("m/../a", "m/b"), "names of files"),
        (("/m/a",), "names of files"),
        (("m//a",), "names of files"),
        (("m/a/",), "names of files"),
        (("m\\a",), "names of files"),
        (("m/\x1b[2J",), "can be printed"),
    ],
)
def test_names_that_readers_take_differently(names, message) -> None:
    with pytest.raises(ArchiveError, match=message):
        table(written(*((name, b"x") for name in names)))


@pytest.mark.parametrize("names", [("m/a", "n/b"), ("m/a", "b"), ("b",), ()])
def test_several_top_folders(names) -> None:
    with pytest.raises(ArchiveError, match="in one folder"):
        top_folder(table(written(*((name, b"x") for name in names))))


def test_a_name_in_an_extra_field_is_refused() -> None:
    info = zipfile.ZipInfo("m/a")
    info.extra = struct.pack("<HHBI", 0x7075, 8, 1, 0) + b"n/b"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, b"x")
    with pytest.raises(ArchiveError, match="second name"):
        read_table(stream)


def test_bytes_before_behind_and_between() -> None:
    data = written(("m/a", b"x" * 50), ("m/b", b"y" * 50), method=zipfile.ZIP_STORED)
    with pytest.raises(ArchiveError, match="table of contents before byte"):
        table(b"#!/bin/sh\n" + data)
    with pytest.raises(ArchiveError, match="bytes behind its end"):
        table(data + b"\n")
    with pytest.raises(ArchiveError, match="bytes behind its end"):
        table(data[: len(data) // 2])
    inner = written(("whole.txt", b"inside"))
    outer = written(("m/inner.zip", bytes(inner)), ("m/b", b""), method=zipfile.ZIP_STORED)
    with pytest.raises(ArchiveError, match="table of contents before byte"):
        table(outer[: outer.index(inner) + len(inner)])


def test_members_over_one_another() -> None:
    data = written(("m/a", b"x" * 50), ("m/b", b"y" * 50), method=zipfile.ZIP_STORED)
    first, second = (i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    with pytest.raises(ArchiveError, match="something else in its place"):
        table(data)
    data[second + 46 + 2] = ord("a")
    with pytest.raises(ArchiveError, match="every member once"):
        table(data)


def test_sizes_that_lie() -> None:
    bomb = written(("m/a", bytes(10**7)))
    at = bomb.index(b"PK\1\2")
    bomb[at + 24 : at + 28] = struct.pack("<L", 1000)
    stream = io.BytesIO(bytes(bomb))
    (member,) = read_table(stream)
    pieces = read_pieces(stream, member)
    with pytest.raises(ArchiveError, match="more bytes than the 1000"):
        sum(map(len, pieces))
    with pytest.raises(ArchiveError, match="it may have 10"):
        read_member(stream, member, 10)


def test_all_compressed_members_together_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(archives, "MAX_INFLATED", 1000)
    table(written(("m/a", bytes(1000))))
    with pytest.raises(ArchiveError, match="at most 1000 bytes, found 1001"):
        table(written(("m/a", bytes(1000)), ("m/b", b"1")))


def test_too_many_members_are_refused_before_they_are_read() -> None:
    data = written(*((f"m/{i}", b"") for i in range(30)))
    with pytest.raises(ArchiveError, match="at most 20 members"):
        read_table(io.BytesIO(bytes(data)), 20)


def test_every_flipped_byte_is_noticed_or_harmless() -> None:
    data = written(("m/a", b"x" * 99), ("m/b", bytes(range(256))))
    right = {"m/a": b"x" * 99, "m/b": bytes(range(256))}
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= flip
            stream = io.BytesIO(bytes(damaged))
            try:
                found = {m.name: read_member(stream, m, 10**6) for m in read_table(stream)}
            except ArchiveError:
                continue
            assert found == right, at
