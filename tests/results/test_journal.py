from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calvin_eval.errors import RunFolderError
from calvin_eval.results.journal import Journal, read_journal
from calvin_eval.results.schema import ChainRecord, SubtaskRecord


def record(chain: int, instruction: str = "go on, 把手 ü", success: bool = True) -> ChainRecord:
    done = SubtaskRecord(
        task="open_drawer",
        instruction=instruction,
        success=success,
        steps=chain + 1,
        seconds=1 / 3,
        state_hash="00ff",
    )
    return ChainRecord(
        chain=chain,
        initial_state={"slider": "left", "led": 1},
        tasks=("open_drawer",),
        subtasks=(done,),
        status="completed",
    )


def write(path: Path, records: list[ChainRecord]) -> bytes:
    with Journal(path) as journal:
        for item in records:
            journal.append(item)
    return path.read_bytes()


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.lists(
        st.builds(record, st.integers(0, 999), st.text(min_size=1), st.booleans()),
        max_size=6,
        unique_by=lambda item: item.chain,
    ),
    st.integers(0, 6),
)
def test_a_journal_gives_back_what_was_appended(records: list[ChainRecord], split: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "chains.jsonl"
        write(path, records[:split])
        write(path, records[split:])
        assert read_journal(path) == records


def test_a_line_is_ascii_json_with_a_checksum(tmp_path: Path) -> None:
    (line,) = write(tmp_path / "j", [record(3)]).decode("ascii").splitlines()
    data = json.loads(line)
    canonical = json.dumps(data["record"], separators=(",", ":")).encode()
    assert int(data["crc32"], 16) == zlib.crc32(canonical)
    assert next(iter(data["record"])) == "chain"


@pytest.mark.slow
def test_a_cut_at_every_byte_loses_only_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    records = [record(chain) for chain in range(3)]
    whole = write(path, records)
    ends = [0, *itertools.accumulate(len(line) for line in whole.splitlines(keepends=True))]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(cut >= end for end in ends[1:])
        assert read_journal(path) == records[:kept]
        assert path.read_bytes() == whole[:cut], "reading changes nothing"
        assert write(path, records[kept:]) == whole, "the missing chains complete the file"


def test_a_changed_byte_is_detected_or_costs_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    records = [record(chain) for chain in range(3)]
    whole = write(path, records)
    last = whole.rindex(b"\n", 0, len(whole) - 1)  # the newline before the last line
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        if position < last:
            with pytest.raises(RunFolderError, match=r", line [12]: expected a chain record"):
                read_journal(path)
        else:
            assert read_journal(path) == records[: 1 if position == last else 2]


def test_damage_in_the_middle_names_the_line_on_reading_and_opening(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    whole = write(path, [record(chain) for chain in range(3)])
    damaged = whole.replace(b'"steps":2', b'"steps":9')
    path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match="line 2: expected a chain record"):
        read_journal(path)
    with pytest.raises(RunFolderError, match="line 2"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_a_sound_line_of_a_foreign_schema_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    text = b'{"chain":1}'
    path.write_bytes(b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(text), text))
    with pytest.raises(RunFolderError, match="line 1: damaged chain record, or one of another"):
        read_journal(path)


def test_a_chain_stands_in_the_journal_once(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    whole = write(path, [record(1), record(2)])
    with Journal(path) as journal:
        assert journal.chains == {1, 2}
        with pytest.raises(RunFolderError, match="chain 2 is completed in the journal already"):
            journal.append(record(2))
    assert path.read_bytes() == whole
    path.write_bytes(whole + whole)
    with pytest.raises(RunFolderError, match="line 3: chain 1 stands on line 1"):
        read_journal(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    with Journal(path) as journal:
        with pytest.raises(RunFolderError, match="another process"):
            Journal(path)
        journal.append(record(1))
        assert read_journal(path) == [record(1)], "readers see a record at once"
    Journal(path).close()


def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chains.jsonl"
    whole = write(path, [record(1)])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with Journal(path) as journal:
        monkeypatch.setattr("calvin_eval.results.journal.os.fsync", full)
        with pytest.raises(RunFolderError, match="No space left"):
            journal.append(record(2))
        assert path.read_bytes() == whole
        monkeypatch.undo()
        journal.append(record(2))
    assert [item.chain for item in read_journal(path)] == [1, 2]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a journal at"):
        read_journal(tmp_path / "none")
    with pytest.raises(RunFolderError, match="cannot open"):
        Journal(tmp_path / "none" / "chains.jsonl")
