"""The stored run of the schema version, and headers of other versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.metrics import summarize
from calvin_eval.results.report import write_reports
from calvin_eval.results.schema import SCHEMA_VERSION
from calvin_eval.results.store import RunFolder

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
STORED = sorted(GOLDEN.glob("schema_*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change_header(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, **changes}))


def test_the_present_version_has_a_stored_run() -> None:
    assert [path.name for path in STORED] == [f"schema_{SCHEMA_VERSION}"]


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
        ({"schema_version": 0}, "expected schema version 1, found 0.*header of a run"),
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
