"""`calvin-eval record` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.cli.main import main
from calvin_eval.foreign.splits import SplitFolder

pytestmark = pytest.mark.processes


def run(out: Path, *options: str) -> int:
    return main(["record", "--out", str(out), "--workers", "0", "--quiet", *options])


def test_options_reach_the_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        *("--scenes", "B", "--validation-scenes", "c", "--episodes", "1", "--validation", "1"),
        *("--length", "1", "--noise", "0", "--no-images", "--seed", "3"),
        *("--tasks", "open_drawer, turn_on_led", "--sentences", "pack"),
    ]
    assert run(tmp_path / "data", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training: 1 episodes, ")
    assert lines[1].startswith("validation: 1 episodes, ")
    config = json.loads((tmp_path / "data/record.json").read_text())
    assert config["scenes"] == {"training": ["B"], "validation": ["C"]}
    assert (config["tasks"], config["sentences"]) == (["open_drawer", "turn_on_led"], "pack")
    assert (config["seed"], config["length"], config["noise"]["rate"]) == (3, 1, 0)
    assert str(tmp_path) not in (tmp_path / "data/record.json").read_text()
    assert SplitFolder(tmp_path / "data/validation").scene(0) == "C"
    before = capsys.readouterr()
    assert run(tmp_path / "data", *options) == 0, "a second time nothing is left to do"
    assert before.err == ""


def test_images_and_depth_are_kept(tmp_path: Path) -> None:
    options = ["--episodes", "1", "--validation", "0", "--length", "1", "--steps", "2", "--depth"]
    policy = ["--policy", "builtin:random", "--option", "hold=4", "--render", "tiny"]
    assert run(tmp_path / "data", *options, *policy) == 0
    frame = SplitFolder(tmp_path / "data/training").read(0)
    shapes = {name: value.shape for name, value in frame.items() if name[:3] in ("rgb", "dep")}
    assert shapes == {
        "rgb_static": (200, 200, 3),
        "rgb_gripper": (84, 84, 3),
        "depth_static": (200, 200),
        "depth_gripper": (84, 84),
    }
    assert frame["rgb_static"].dtype == "uint8"
    assert frame["depth_static"].dtype == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenes", "E"], "unknown scene 'E'"),
        (["--scenes", ""], "at least one scene"),
        (["--option", "hold"], "expected KEY=VALUE, found 'hold'"),
        (["--noise", "2"], "noise rate: expected a number from 0 to 1"),
        (["--min-span", "65"], "found 65 to 64"),
        (["--no-images", "--depth"], "expected a renderer for depth images"),
        (["--policy", "builtin:nobody"], "unknown built-in policy 'nobody'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    assert run(tmp_path / "data", "--no-images", *options) == 2
    assert message in capsys.readouterr().err


def test_a_correction_is_read_from_the_options(tmp_path: Path) -> None:
    short = ["--episodes", "1", "--validation", "0", "--length", "1", "--steps", "3", "--no-images"]
    label = ["--policy", "builtin:random", "--label", "expert", "--beta", "0.8:0.2", "--turn", "7"]
    assert run(tmp_path / "data", *short, *label, "--takeover", "2", "--stage", "execute=null") == 0
    config = json.loads((tmp_path / "data/record.json").read_text())
    assert config["correction"] == {"first": 0.8, "last": 0.2, "turn": 7, "takeover": 2}
    assert (config["noise"]["rate"], config["stages"]) == (0, {"execute": None})
    assert "expert_acted" in SplitFolder(tmp_path / "data/training").read(0)
