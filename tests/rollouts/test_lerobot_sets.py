"""Data sets in LeRobot's formats 2.1 and 3.0: read, checked, shown, and held against policies."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_sets import KEYS, write_lerobot
from mutations import as_json, damaged_bytes, damaged_document
from recording import small_spec
from requirements import need_package

from calvin_eval.cli.main import main
from calvin_eval.errors import CalvinEvalError, UnknownNameError, UsageError
from calvin_eval.foreign.splits import BrokenFrameError, SplitFolder
from calvin_eval.rollouts.datasets.audit import AuditSpec, audit_dataset
from calvin_eval.rollouts.datasets.drawing import psnr
from calvin_eval.rollouts.datasets.opening import open_dataset
from calvin_eval.rollouts.datasets.report import check_dataset
from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import record
from calvin_eval.wrappers.check.calvin_folder import read_folder
from calvin_eval.wrappers.check.lerobot_files import fill
from calvin_eval.wrappers.check.lerobot_split import LeRobotSplit

need_package("pyarrow", "the extra parquet")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SplitFolder:
    """An episode of two tasks with images by TinyRenderer."""
    out = tmp_path_factory.mktemp("drawn") / "data"
    record(
        small_spec(
            out, render="tiny", episodes={"training": 1, "validation": 0}, length=2,
            scenes={"training": "D", "validation": "D"}, noise=Disturbance(rate=0.0),
        )
    )  # fmt: skip
    return SplitFolder(out / "training")


@pytest.fixture(scope="module", params=["v2.1", "v3.0 videos"])
def made(
    request: pytest.FixtureRequest, source: SplitFolder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    version, *videos = request.param.split()
    out = tmp_path_factory.mktemp("lerobot") / "set"
    return write_lerobot(source, out, version=version, videos=bool(videos))


def make(source: SplitFolder, out: Path, **how: Any) -> Path:
    """A set without images, which is quick."""
    keys = how.pop("keys", {n: KEYS[n] for n in ("rel_actions", "robot_obs", "scene_obs")})
    return write_lerobot(source, out, **{"version": "v3.0", "keys": keys, **how})


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("videos", [True, False])
def test_frames_are_those_of_the_source(
    source: SplitFolder, tmp_path: Path, version: str, videos: bool
) -> None:
    split = LeRobotSplit(write_lerobot(source, tmp_path / "s", version=version, videos=videos))
    assert split.version == version
    annotations = source.annotations or ()
    assert [(a.text, a.last - a.first) for a in split.annotations or ()] == [
        (a.text, a.last - a.first) for a in annotations
    ]
    assert split.features == KEYS
    assert len(split.frames) == sum(a.last - a.first + 1 for a in annotations)
    for ours, theirs in zip(split.annotations or (), annotations, strict=True):
        for step in (0, 7, theirs.last - theirs.first):
            frame, recorded = split.read(ours.first + step), source.read(theirs.first + step)
            for name in ("rel_actions", "robot_obs", "scene_obs"):
                assert np.array_equal(frame[name], recorded[name].astype(np.float32))
            for name in ("rgb_static", "rgb_gripper"):
                assert frame[name].dtype == np.uint8
                assert psnr(frame[name], recorded[name]) > (35 if videos else 98)


def test_check_says_what_is_there_and_what_is_not(made: Path, capsys: Any) -> None:
    arguments = ["dataset", "check", str(made), "--scene", "D", "--images", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 episodes, 2 annotations of 0 tasks" in printed
    assert "no actions: absolute actions cannot be trained on" in printed
    assert "2 have a sentence and no task" in printed
    assert "drawn with TinyRenderer" in printed
    assert "statistics.yaml" not in printed


def test_show_draws_a_sheet_and_a_video(made: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["dataset", "show", str(made), "--out", str(tmp_path), "--videos", "1"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.suffix for path in paths] == [".png", ".mp4"]
    assert all(path.stat().st_size > 1000 for path in paths)


RECALLS = """
import numpy as np

class Recalls:
    requirements = {{"rgb": ["static"]}}
    def __init__(self):
        self.states, self.actions = np.load({states!r}), np.load({actions!r})
    def reset(self):
        pass
    def step(self, obs, goal):
        assert obs["rgb_obs"]["rgb_static"].shape == (200, 200, 3)
        gaps = np.abs(self.states - obs["robot_obs"][:6]).sum(axis=1)
        return self.actions[gaps.argmin()] * {factor}
"""


@pytest.mark.parametrize(("factor", "code"), [("1", 0), ("([0.02] * 3 + [0.05] * 3 + [1])", 1)])
def test_a_policy_is_held_against_it(
    made: Path, tmp_path: Path, capsys: Any, factor: str, code: int
) -> None:
    split = LeRobotSplit(made)
    frames = [split.read(i, ("robot_obs", "rel_actions")) for i in split.frames]
    np.save(tmp_path / "states.npy", [frame["robot_obs"][:6] for frame in frames])
    np.save(tmp_path / "actions.npy", [frame["rel_actions"] for frame in frames])
    text = RECALLS.format(
        states=str(tmp_path / "states.npy"), actions=str(tmp_path / "actions.npy"), factor=factor
    )
    (tmp_path / "recalls.py").write_text(text, encoding="utf-8")
    ckpt = f"{tmp_path / 'recalls.py'}:Recalls"
    assert main(["check", "--ckpt", ckpt, "--demos", str(made)]) == code
    printed = capsys.readouterr().out
    assert f"{len(frames)} actions: 2 demonstrations" in printed
    assert ("x50 scaling is missing" in printed) == bool(code)


def test_labels_without_a_task_are_not_audited(source: SplitFolder, tmp_path: Path) -> None:
    out = make(source, tmp_path / "set")
    report = audit_dataset(out, AuditSpec(scene="D", most=1))
    (label,) = [label for _, _, label in report.labels()]
    truth = next(iter(source.annotations or ())).task
    assert label.verdict == "unchecked"
    assert truth in label.done, "what was done is told all the same"
    assert "no task" in label.reason


def test_sets_side_by_side_are_splits(source: SplitFolder, tmp_path: Path) -> None:
    for name, version in (("validation", "v3.0"), ("training", "v2.1")):
        make(source, tmp_path / "both" / name, version=version)
    assert [split.name for split in open_dataset(tmp_path / "both")] == ["training", "validation"]
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("state", [(*range(7), 14), range(7)])
def test_a_state_without_joints_says_so(
    source: SplitFolder, tmp_path: Path, state: Any, capsys: Any
) -> None:
    out = make(source, tmp_path / "set", state=state, version="v2.1")
    frame = LeRobotSplit(out).read(3)
    assert np.flatnonzero(np.isfinite(frame["robot_obs"])).tolist() == list(state)
    assert main(["dataset", "check", str(out)]) == 0
    assert f"robot_obs has {len(state)} numbers of 15" in capsys.readouterr().out


def test_what_it_lacks_serves_what_does_not_need_it(
    source: SplitFolder, tmp_path: Path, capsys: Any
) -> None:
    keys = {"rel_actions": "actions", "robot_obs": "state"}
    out = make(source, tmp_path / "set", keys=keys, version="v2.1")
    assert set(LeRobotSplit(out).lacking) == {"scene_obs", "rgb_static", "rgb_gripper"}
    assert main(["check", "--ckpt", "builtin:random", "--demos", str(out)]) in (0, 1)
    report = check_dataset(out)
    assert any("no scene_obs" in fault.message for fault in report.faults)
    assert report.sound
    (demonstration, *_) = read_folder(out, 2)
    assert set(demonstration.observe(0)) == {"rgb_obs", "depth_obs", "robot_obs"}
    with pytest.raises(UsageError, match="no rgb_static, only rel_actions, robot_obs"):
        demonstration.observe(0, rgb=("static",))
    capsys.readouterr()
    assert main(["dataset", "show", str(out), "--out", str(tmp_path / "looks")]) == 2
    assert "no rgb_static" in capsys.readouterr().err


def test_other_names_are_mapped(source: SplitFolder, tmp_path: Path, capsys: Any) -> None:
    keys = {"rel_actions": "delta", "robot_obs": "proprio", "scene_obs": "world"}
    out = make(source, tmp_path / "set", keys=keys)
    assert main(["dataset", "check", str(out), "--images", "0"]) == 1
    assert "rel_actions: expected 7 numbers, found none" in capsys.readouterr().out
    named = [f"--key={name}={feature}" for name, feature in keys.items()]
    assert main(["dataset", "check", str(out), "--images", "0", *named]) == 0
    assert LeRobotSplit(out, keys).features == keys
    with pytest.raises(UnknownNameError, match=r"feature for robot_obs 'propio'.*proprio"):
        LeRobotSplit(out, {"robot_obs": "propio"})
    with pytest.raises(UnknownNameError, match="array of CALVIN's 'robot'"):
        LeRobotSplit(out, {"robot": "proprio"})
    with pytest.raises(UsageError, match="expected 24 numbers for scene_obs"):
        LeRobotSplit(out, {"scene_obs": "proprio"})
    assert main(["dataset", "check", str(out), "--key", "robot_obs"]) == 2
    assert main(["dataset", "check", str(source.path), "--key", "robot_obs=x"]) == 2
    assert "LeRobot's format" in capsys.readouterr().err


def edit_info(out: Path, **changes: Any) -> None:
    path = out / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("version", "spoil", "told"),
    [
        ("v3.0", lambda out: (out / "meta/info.json").write_text("{"), "info.json cannot be read"),
        ("v3.0", lambda out: edit_info(out, codebase_version="v1.6"), "2.x or 3.x, found 'v1.6'"),
        ("v3.0", lambda out: edit_info(out, features=[1]), "expected an object"),
        ("v3.0", lambda out: edit_info(out, data_path="../../{chunk_index}"), "a path below"),
        ("v3.0", lambda out: edit_info(out, data_path="{secret}"), "found {secret}"),
        ("v3.0", lambda out: shutil.rmtree(out / "meta/episodes"), "to hold tables, found none"),
        ("v2.1", lambda out: (out / "meta/episodes.jsonl").unlink(), "episodes.jsonl cannot be"),
        ("v2.1", lambda out: (out / "meta/episodes.jsonl").write_text("{}\n"), "damaged, or of"),
        ("v2.1", lambda out: (out / "meta/episodes.jsonl").write_text(""), "expected episodes"),
        ("v2.1", lambda out: edit_info(out, chunks_size=0), "damaged, or of another version"),
    ],
)
def test_a_damaged_set_says_what_is_wrong(
    source: SplitFolder, tmp_path: Path, version: str, spoil: Callable[[Path], None], told: str
) -> None:
    out = make(source, tmp_path / "set", version=version)
    spoil(out)
    with pytest.raises(UsageError) as raised:
        LeRobotSplit(out)
    assert told in str(raised.value)


def test_damaged_tables_are_broken_frames(source: SplitFolder, tmp_path: Path) -> None:
    out = make(source, tmp_path / "set", version="v2.1")
    (out / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 no table PAR1")
    (out / "data/chunk-000/episode_000001.parquet").unlink()
    split = LeRobotSplit(out)
    for index in (0, max(split.frames)):
        with pytest.raises(BrokenFrameError, match="cannot be read"):
            split.read(index)
    with pytest.raises(BrokenFrameError, match="there is no frame 100000"):
        split.read(100_000)
    assert not check_dataset(out).sound


def test_a_damaged_video_is_a_broken_frame(source: SplitFolder, tmp_path: Path) -> None:
    out = write_lerobot(source, tmp_path / "set", version="v3.0", videos=True)
    (film,) = (out / "videos/observation.images.wrist").glob("*/*.mp4")
    film.write_bytes(film.read_bytes()[:500])
    with pytest.raises(BrokenFrameError, match="cannot be decoded"):
        LeRobotSplit(out).read(0, ("rgb_gripper",))
    assert LeRobotSplit(out).read(0, ("rgb_static",))["rgb_static"].shape == (200, 200, 3)


def test_paths_of_a_template_stay_below_the_folder(tmp_path: Path) -> None:
    place = fill("a/{episode_chunk:03d}/{key}.x", tmp_path, episode_chunk=7, key="b")
    assert place == tmp_path / "a/007/b.x"
    for template in ("/etc/{key}", "../{key}", "a/{key}"):
        with pytest.raises(UsageError, match="expected a path below"):
            fill(template, tmp_path, key="../../x")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_no_damage_goes_unanswered(source: SplitFolder, tmp_path: Path, version: str) -> None:
    """Whatever is changed in a file, a frame is read or the error is calvin-eval's own."""
    out = make(source, tmp_path / "set", version=version)
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    info = json.loads((out / "meta/info.json").read_text())
    answered = 0
    for number in range(120):
        rng = random.Random(number)
        file = out / "meta/info.json" if number % 2 else rng.choice(files)
        before = file.read_bytes()
        damaged = as_json(damaged_document(info, rng)) if number % 2 else None
        file.write_bytes(damaged or damaged_bytes(before, rng))
        with contextlib.suppress(CalvinEvalError):
            split = LeRobotSplit(out)
            split.read(int(split.ranges[-1, 0]))
            answered += 1
        file.write_bytes(before)
    assert 0 < answered < 120
