"""`calvin-eval dataset` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recording import record_drawn_episode

from calvin_eval.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_drawn_episode(tmp_path_factory.mktemp("dataset") / "data")


def test_check_tells_what_is_there(data: Path, capsys: Any) -> None:
    assert main(["dataset", "check", str(data), "--images", "2"]) == 0
    printed = capsys.readouterr().out
    assert "1 episodes, 1 annotations of 1 tasks, scene D" in printed
    assert "drawn with TinyRenderer: evaluate with --render tiny" in printed
    assert printed.rstrip().endswith("sound")


def test_check_exits_with_1_on_an_error(data: Path, tmp_path: Path, capsys: Any) -> None:
    import shutil

    split = tmp_path / "training"
    shutil.copytree(data / "training", split)
    (split / "episode_0000007.npz").write_bytes(b"not a zip file")
    assert main(["dataset", "check", str(split), "--images", "0", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["sound"]
    assert report["faults"][0]["frames"] == [7]
    assert main(["dataset", "check", str(split), "--images", "0"]) == 1
    printed = capsys.readouterr().out
    assert "error: training: broken frames: a file cannot be read" in printed
    assert "(frames 7)" in printed


def test_show_writes_a_sheet_and_videos(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["dataset", "show", str(data), "--out", str(tmp_path), "--videos", "1"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.suffix for path in paths] == [".png", ".mp4"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_export_refuses_a_split_that_is_not_there(data: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["dataset", "export-lerobot", str(data), "--out", str(tmp_path / "x")]
    assert main([*command, "--split", "test"]) == 2
    assert "expected a split 'test'" in capsys.readouterr().err


def test_a_missing_folder_and_a_wrong_scene_are_told(
    tmp_path: Path, data: Path, capsys: Any
) -> None:
    assert main(["dataset", "check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["dataset", "check", str(data), "--scene", "F"]) == 2
    assert "unknown scene 'F'" in capsys.readouterr().err
