"""Files that are whole or not there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calvin_eval.files import backup_of, remove_remains, temporary_name, write_atomic, write_first


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    write_atomic(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"new", [path])


def test_threads_that_write_one_file_do_not_take_each_others(tmp_path: Path) -> None:
    path = tmp_path / "scene.urdf"
    contents = [bytes([number]) * 5000 for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda data: write_atomic(path, data), contents * 4))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_two_first_ones_one_is_refused(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError("not on this file system")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "header.json"
    write_first(path, b"mine")
    with pytest.raises(FileExistsError):
        write_first(path, b"yours")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"mine", [path])


def test_a_backup_takes_the_first_free_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert backup_of(run) == tmp_path / "run.bak-1"
    (tmp_path / "run.bak-1").mkdir()
    assert backup_of(run) == tmp_path / "run.bak-2"


def test_what_living_processes_write_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / temporary_name("a.json", "tmp")
    orphan = tmp_path / ".a.json.999999999.tmp"
    mine.touch()
    orphan.touch()
    remove_remains(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
