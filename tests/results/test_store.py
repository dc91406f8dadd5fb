from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.schema import SCHEMA_VERSION, ChainRecord
from calvin_eval.results.store import RunFolder

BROKEN = ChainRecord(
    chain=2, initial_state={}, tasks=("a",), subtasks=(), status="error", error="worker died"
)


def test_create_open_and_update(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "demo", {"seed": 3, "name": "Größe"})
    document = run.document()
    assert re.fullmatch("[0-9a-f]{32}", document.pop("run_id"))
    assert document == {
        "schema_version": SCHEMA_VERSION,
        "status": "started",
        "seed": 3,
        "name": "Größe",
    }
    assert run.moved_to is None
    again = RunFolder.open(tmp_path / "runs" / "demo")
    assert again.status == "started"
    assert again.update_header(status="finished", seed=4)["seed"] == 4
    assert run.status == "finished"
    assert list(run.document()) == ["schema_version", "status", "run_id", "seed", "name"]


def test_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, {}).path == tmp_path


def test_a_full_folder_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "demo", {})
    with pytest.raises(RunFolderError, match=r"--out.*--overwrite"):
        RunFolder.create(tmp_path / "demo", {})


def test_overwrite_moves_the_old_run_aside(tmp_path: Path) -> None:
    for number in range(3):
        run = RunFolder.create(tmp_path / "demo", {"number": number}, overwrite=True)
        expected = tmp_path / f"demo.bak-{number}" if number else None
        assert run.moved_to == expected
    assert RunFolder.open(tmp_path / "demo").document()["number"] == 2
    assert RunFolder.open(tmp_path / "demo.bak-1").document()["number"] == 0
    assert RunFolder.open(tmp_path / "demo.bak-2").document()["number"] == 1


def _start(number: int, path: Path, barrier: Any, won: Any) -> None:
    """One of two processes that start runs in the same new folders at the same time."""
    for turn in range(100):
        folder = path / str(turn)
        barrier.wait()
        try:
            run = RunFolder.create(folder, {"number": number, "filling": "x" * 20_000})
            with run.journal() as journal:
                journal.append(replace(BROKEN, chain=number))
            won[2 * turn + number] = 1
        except RunFolderError:
            pass


@pytest.mark.processes
def test_of_two_starts_in_one_folder_one_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(2), context.Array("b", 200)
    children = [
        context.Process(target=_start, args=(number, tmp_path, barrier, won)) for number in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    for turn in range(100):
        winners = [number for number in (0, 1) if won[2 * turn + number]]
        assert len(winners) == 1
        run = RunFolder.open(tmp_path / str(turn))
        assert run.document()["number"] == winners[0]
        assert [record.chain for record in run.records()] == winners
        assert sorted(path.name for path in run.path.iterdir()) == ["chains.jsonl", "header.json"]


def test_a_run_that_goes_on_is_not_moved_aside(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    with run.journal(), pytest.raises(RunFolderError, match="open in another process"):
        RunFolder.create(tmp_path / "demo", {}, overwrite=True)
    other = RunFolder.create(tmp_path / "demo", {}, overwrite=True)
    with pytest.raises(RunFolderError, match="another run was started"):
        run.journal()
    with other.journal():
        pass


def test_paths_that_are_no_utf_8_come_back(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {"ckpt": "p\udcff.pt"})
    assert run.document()["ckpt"] == "p\udcff.pt"


def test_overwrite_touches_runs_only(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(RunFolderError, match=r"without a header\.json"):
        RunFolder.create(tmp_path / "thesis", {}, overwrite=True)
    with pytest.raises(RunFolderError, match="something in it"):
        RunFolder.create(tmp_path / "thesis" / "chapter.tex", {})
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "..."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is this a run folder"),
        ("{", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("[]", "expected an object"),
        ("{}", "expected schema version 1, found None"),
        ('{"schema_version": 2}', "expected schema version 1, found 2"),
    ],
)
def test_open_refuses_what_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "header.json").write_text(text)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.open(tmp_path)


def test_unknown_statuses_are_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    with pytest.raises(ValueError, match="header status: expected one of"):
        run.update_header(status="done")
    with pytest.raises(ValueError, match="schema version"):
        run.update_header(schema_version=2)
    run.write_json("header.json", {"schema_version": SCHEMA_VERSION, "status": "?"})
    with pytest.raises(RunFolderError, match="found '\\?'"):
        _ = run.status


def test_json_is_readable_ordered_and_without_nan(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    path = run.write_json("summary.json", {"b": 1, "a": [1.5, None]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    1.5,\n    null\n  ]\n}\n'
    assert run.read_json("summary.json") == {"b": 1, "a": [1.5, None]}
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"summary\.json.*use null"):
            run.write_json("summary.json", {"x": bad})
    assert run.read_json("summary.json") == {"b": 1, "a": [1.5, None]}


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    run.write_text("tasks.csv", "old\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("calvin_eval.results.store.os.fsync", full)
    with pytest.raises(RunFolderError, match=r"cannot write .*tasks.csv.*No space left"):
        run.write_text("tasks.csv", "new\n")
    assert (run.path / "tasks.csv").read_text() == "old\n"
    assert sorted(p.name for p in run.path.iterdir()) == ["header.json", "tasks.csv"]


def test_files_get_the_users_permissions(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    (tmp_path / "plain").write_text("")
    mode = os.stat(tmp_path / "plain").st_mode
    assert os.stat(run.path / "header.json").st_mode == mode


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ""])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    with pytest.raises(ValueError, match="bare name"):
        run.write_text(name, "x")


def test_records_come_in_chain_order(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "demo", {})
    assert run.records() == []
    first = ChainRecord.from_json({**BROKEN.to_json(), "chain": 1})
    with run.journal() as journal:
        journal.append(BROKEN)
        journal.append(first)
    assert RunFolder.open(run.path).records() == [first, BROKEN]
    assert json.loads((run.path / "chains.jsonl").read_text().splitlines()[0])["crc32"]


def test_what_a_killed_session_left_in_the_middle_of_a_file_is_removed(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_actions(0, [[np.zeros(7)]])
    gone = subprocess.Popen(["true"])
    gone.wait()
    actions = folder.actions_path(0).parent
    being_written = actions / f".0002.npz.{os.getpid()}.tmp"
    for path in (actions / f".0001.npz.{gone.pid}.tmp", being_written):
        path.touch()
    (folder.path / f".header.json.{gone.pid}.tmp").touch()
    folder.remove_remains()
    assert sorted(actions.iterdir()) == sorted([being_written, folder.actions_path(0)])
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []
