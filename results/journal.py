"""The journal: one line per finished chain, appended, checksummed and on disk at once.

A line is `{"crc32":"xxxxxxxx","record":{...}}` and a newline; the checksum covers the record's
own bytes. A process that dies while it writes can damage the last line only: that line is
dropped on reading and cut off when the journal is opened again, and its chain runs anew.
Damage anywhere else is an error.

A chain that ended by an error may be run again: its later record takes the place of the earlier.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from calvin_eval.errors import RunFolderError
from calvin_eval.foreign.documents import parse_json
from calvin_eval.results.schema import ChainRecord

_LINE = re.compile(rb'\{"crc32":"([0-9a-f]{8})","record":(\{.*\})\}')
_log = logging.getLogger(__name__)


class Journal:
    """A journal open for appending; one process at a time, as a context manager or closed by hand.

    Opening creates the file if need be, repairs a torn last line and raises RunFolderError if
    the journal is damaged elsewhere or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise RunFolderError(f"cannot open {self.path} for writing: {error}") from error
        try:
            _lock(self._file.fileno(), self.path)
            self._file.seek(0)
            records, self._end = _parse(self._file.read(), self.path)
            self._chains = {record.chain for record in records if _is_final(record)}
            self._file.truncate(self._end)
            _sync_folder(self.path.parent)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    @contextmanager
    def lock(cls, path: Path) -> Iterator[None]:
        """Keep other processes from a journal, which stays as it is.

        Raises:
            RunFolderError: one has it open, or it cannot be read.
        """
        try:
            file = open(path, "rb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error}") from error
        with file:
            _lock(file.fileno(), path)
            yield

    @property
    def chains(self) -> frozenset[int]:
        """Ids of the completed chains in the journal."""
        return frozenset(self._chains)

    def append(self, record: ChainRecord) -> None:
        """Write one record; when this returns, it survives a power cut.

        Raises:
            RunFolderError: the chain is completed already, or the disk refuses; the journal is
                then as it was before.
        """
        if record.chain in self._chains:
            raise RunFolderError(
                f"{self.path}: chain {record.chain} is completed in the journal already; expected "
                "each chain once. Skip completed chains when resuming."
            )
        line = _encode(record)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._roll_back()
            raise RunFolderError(f"cannot write to {self.path}: {error}") from error
        self._end += len(line)
        if _is_final(record):
            self._chains.add(record.chain)

    def _roll_back(self) -> None:
        try:
            self._file.truncate(self._end)
        except OSError:  # half a line may remain: nothing may be written behind it
            self._file.close()

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: str | os.PathLike[str]) -> list[ChainRecord]:
    """All whole records that no later one replaces, in the order in which the chains finished.

    Raises:
        RunFolderError: no such file, a damaged line before the last, or a chain twice.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RunFolderError(f"expected a journal at {path}: {error.strerror}") from error
    return _parse(data, Path(path))[0]


def _encode(record: ChainRecord) -> bytes:
    text = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False).encode("ascii")
    return b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(text), text)


def _decode(line: bytes) -> ChainRecord | None:
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    try:
        return ChainRecord.from_json(parse_json(match[2]))
    except ValueError:
        return None


def _parse(data: bytes, path: Path) -> tuple[list[ChainRecord], int]:
    """The whole records and the length in bytes of the part that holds them."""
    lines = data.split(b"\n")
    torn = lines.pop()  # what follows the last newline: nothing, or half a line
    seen: dict[int, int] = {}
    records: dict[int, ChainRecord] = {}
    end = 0
    for number, line in enumerate(lines, 1):
        try:
            record = _decode(line)
        except RunFolderError as error:
            raise RunFolderError(f"{path}, line {number}: {error}") from error
        if record is None:
            if number == len(lines) and not torn:
                torn = line
                break
            raise RunFolderError(
                f"{path}, line {number}: expected a chain record with its checksum, found a "
                "damaged line. Restore the file, or run again into a new folder."
            )
        if record.chain in seen and _is_final(records[record.chain]):
            raise RunFolderError(
                f"{path}, line {number}: chain {record.chain} stands on line "
                f"{seen[record.chain]} already; expected each chain once."
            )
        seen[record.chain] = number
        records.pop(record.chain, None)  # so that the order is that of the last records
        records[record.chain] = record
        end += len(line) + 1
    if torn:
        _log.warning("%s: dropped a torn last line of %d bytes", path, len(torn))
    return list(records.values()), end


def encode_journal(records: Iterable[ChainRecord]) -> bytes:
    """A whole journal with these records in order of chain id, whatever order they came in."""
    return b"".join(map(_encode, sorted(records, key=lambda record: record.chain)))


def _is_final(record: ChainRecord) -> bool:
    return record.status == "completed"


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no advisory locks on this platform
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFolderError(
            f"{path} is open in another process; expected one run per folder. "
            "Wait for the other run, or choose another folder with --out."
        ) from error
    except OSError:  # a file system without locks
        _log.debug("%s: no lock to be had", path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse to sync folders
        _log.debug("%s: folder not synced", folder)
    finally:
        os.close(descriptor)
