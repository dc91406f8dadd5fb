"""Runs of older and newer schema versions, and the stored run of each version."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results import migrate
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.metrics import summarize
from calvin_eval.results.migrate import MIGRATIONS, Migration
from calvin_eval.results.report import write_reports
from calvin_eval.results.schema import SCHEMA_VERSION, ChainRecord
from calvin_eval.results.store import RunFolder

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
STORED = sorted(GOLDEN.glob("schema_*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change_header(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, **changes}))


def with_checksums(path: Path, rename: dict[bytes, bytes]) -> None:
    """Rename keys in a journal, and mend its checksums."""
    lines = []
    for line in path.read_bytes().splitlines():
        record = line[len(b'{"crc32":"xxxxxxxx","record":') : -1]
        for old, new in rename.items():
            assert old in record
            record = record.replace(old, new)
        lines.append(b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(record), record))
    path.write_bytes(b"".join(lines))


def test_every_readable_version_has_a_stored_run() -> None:
    versions = {int(path.name.removeprefix("schema_")) for path in STORED}
    assert versions == {*MIGRATIONS, SCHEMA_VERSION}
    assert sorted(MIGRATIONS) == list(range(SCHEMA_VERSION - len(MIGRATIONS), SCHEMA_VERSION))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_a_stored_run_says_what_it_said(path: Path, tmp_path: Path) -> None:
    version = int(path.name.removeprefix("schema_"))
    assert json.loads((path / "header.json").read_text())["schema_version"] == version
    before = contents(path)
    folder = RunFolder.open(path)
    header, records = folder.header(), folder.records()
    assert header.schema_version == SCHEMA_VERSION
    assert [record.chain for record in records] == list(header.planned) == [0, 1]
    for record in records:
        assert len(folder.read_actions(record.chain)) == len(record.subtasks)
    summary = json.loads((path / "summary.json").read_text())
    verdict = summary.pop("verdict")
    assert summarize(records, 2).to_json() == summary
    assert verdict == header.document["verdict"]
    copy = RunFolder.open(shutil.copytree(path, tmp_path / "copy"))
    view = write_reports(copy)
    assert view.headline is not None
    report = (copy.path / "report.md").read_text(encoding="utf-8")
    assert "builtin:random" in report
    assert records[0].subtasks[0].task in (copy.path / "tasks.csv").read_text()
    assert contents(path) == before
    now = contents(copy.path)
    assert {name: now[name] for name in before} == before


def test_the_stored_runs_name_no_machine() -> None:
    for path in STORED:
        text = b"".join(contents(path).values())
        for trace in (b"/home/", b"/tmp/", b"/usr/"):
            assert trace not in text


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of an invented version 0, in which chains had an `id` and the scene was a `world`."""

    def header(data: dict[str, Any]) -> dict[str, Any]:
        data["scene"] = data.pop("world")
        return data

    def record(data: dict[str, Any]) -> dict[str, Any]:
        return {"chain": data.pop("id"), **data}

    monkeypatch.setitem(migrate.MIGRATIONS, 0, Migration(header=header, record=record))
    folder = shutil.copytree(GOLDEN / "schema_1", tmp_path / "old")
    stored = json.loads((folder / "header.json").read_text())
    stored["world"] = stored.pop("scene")
    (folder / "header.json").write_text(json.dumps({**stored, "schema_version": 0}))
    with_checksums(folder / "chains.jsonl", {b'"chain":': b'"id":'})
    return folder


def test_an_older_run_is_migrated_on_reading_and_never_rewritten(old: Path) -> None:
    before = contents(old)
    new = RunFolder.open(GOLDEN / "schema_1")
    folder = RunFolder.open(old)
    assert folder.header() == new.header()
    assert folder.records() == new.records()
    assert folder.status == "finished"
    assert contents(old) == before
    write_reports(folder)
    after = contents(old)
    assert {name: after[name] for name in before} == before


def test_migrations_follow_one_another(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(data: dict[str, Any]) -> dict[str, Any]:
        return {"id": data.pop("number"), **data}

    def header(data: dict[str, Any]) -> dict[str, Any]:
        return {"world": data.pop("place"), **data}

    monkeypatch.setitem(migrate.MIGRATIONS, -1, Migration(header=header, record=record))
    stored = json.loads((old / "header.json").read_text())
    stored["place"] = stored.pop("world")
    (old / "header.json").write_text(json.dumps({**stored, "schema_version": -1}))
    with_checksums(old / "chains.jsonl", {b'"id":': b'"number":'})
    folder = RunFolder.open(old)
    assert folder.header().scene == "D"
    assert "place" not in folder.document()
    assert folder.records() == RunFolder.open(GOLDEN / "schema_1").records()


def test_reading_an_old_run_leaves_new_ones_as_they_are(old: Path) -> None:
    record, _ = RunFolder.open(old).records()
    assert ChainRecord.from_json(record.to_json()) == record
    (old / "chains.jsonl").write_bytes(b'{"crc32":"00000000","record":{}}\n{}\n')
    with pytest.raises(RunFolderError, match="damaged line"):
        RunFolder.open(old).records()
    assert ChainRecord.from_json(record.to_json()) == record


def test_an_older_run_is_not_continued(old: Path) -> None:
    folder = RunFolder.open(old)
    before = contents(old)
    for write in (folder.journal, folder.settle, lambda: folder.update_header(status="started")):
        with pytest.raises(RunFolderError, match=r"schema version 1 to write.*version 0.*--out"):
            write()
    assert contents(old) == before


def test_a_record_that_is_not_of_its_version_is_damaged(old: Path) -> None:
    records = RunFolder.open(old).records()
    (old / "chains.jsonl").write_bytes(encode_journal(records))  # `chain`, where 0 has `id`
    with pytest.raises(RunFolderError, match=r"line 1: damaged chain record.*version 0.*'id'"):
        RunFolder.open(old).records()
    change_header(old, scene="D", world=None, schema_version=1)
    assert RunFolder.open(old).records() == records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema_version": 3},
            "expected schema version 1, found 3.* newer calvin-eval.* 0.1.0 or",
        ),
        (
            {"schema_version": 2, "provenance": {"calvin_eval": None}},
            "expected schema version 1, found 2.* newer calvin-eval. Install the one that wrote",
        ),
        ({"schema_version": 0}, "version 1, found 0: that is too old.* with calvin-eval 0.1.0"),
        ({"schema_version": "1"}, "expected schema version 1, found '1'.*header of a run"),
        ({"schema_version": True}, "expected schema version 1, found True.*header of a run"),
    ],
)
def test_other_versions_are_refused_with_the_one_needed(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(GOLDEN / "schema_1", tmp_path / "run")
    change_header(folder, **changes)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.open(folder)
