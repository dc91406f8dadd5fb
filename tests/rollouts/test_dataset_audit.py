"""Playing a data set back: true labels are confirmed, and what is spoilt is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import runner
from recording import small_spec
from requirements import need_official

from calvin_eval.cli.main import cli
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.splits import SplitFolder
from calvin_eval.rollouts.datasets.audit import AuditSpec, audit_dataset
from calvin_eval.rollouts.datasets.drift import MEASURES, by_step, distances
from calvin_eval.rollouts.datasets.playback import JudgedLabel
from calvin_eval.rollouts.recording.labels import ANNOTATIONS, save_plain
from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import record
from calvin_eval.sim.symbolic import TASK_NAMES

pytestmark = [pytest.mark.slow, pytest.mark.processes]

Labels = dict[str, list[Any]]


def make(out: Path, **changes: Any) -> Path:
    """Two episodes, one in scene A and one in D, of two undisturbed tasks each."""
    episodes = {"training": 2, "validation": 0}
    record(small_spec(out, episodes=episodes, noise=Disturbance(rate=0.0), **changes))
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("audited") / "data")


@pytest.fixture
def spoilt(recorded: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(recorded, tmp_path / "data")) / "training"


def relabel(split: Path, change: Callable[[Labels], None]) -> None:
    """Change sentences, tasks or spans of a split's annotations."""
    found = SplitFolder(split).annotations or ()
    labels: Labels = {
        "ann": [a.text for a in found],
        "task": [a.task for a in found],
        "indx": [(a.first, a.last) for a in found],
    }
    change(labels)
    language = {"ann": labels["ann"], "task": labels["task"], "emb": np.zeros((0, 1, 0))}
    save_plain(split / ANNOTATIONS, {"language": language, "info": {"indx": labels["indx"]}})


def rewrite(split: Path, index: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the arrays of a frame."""
    file = split / f"episode_{index:07d}.npz"
    with np.load(file) as content:
        arrays = dict(content)
    change(arrays)
    np.savez_compressed(file, **arrays)


def verdicts(path: Path, **how: Any) -> list[JudgedLabel]:
    return [label for _, _, label in audit_dataset(path, AuditSpec(**how)).labels()]


def test_true_labels_are_confirmed_to_the_last_bit(recorded: Path) -> None:
    report = audit_dataset(recorded, AuditSpec(start="episode"))
    labels = [label for _, _, label in report.labels()]
    assert len(labels) >= 3
    assert {label.verdict for label in labels} == {"confirmed"}
    assert [stretch.scene for _, stretch, _ in report.stretches] == ["A", "D"]
    assert report.by_task[labels[0].annotation.task]["confirmed"] >= 1
    for _, stretch, played in report.stretches:
        assert set(played.drift) == set(MEASURES)
        for series in played.drift.values():
            assert len(series) == stretch.last - stretch.first + 1
            assert series[0] < 0.01, "a reset restores poses, and one step of physics passes"
            assert max(series[1:]) == 0
    for label in labels:
        assert label.annotation.task in label.recorded
        span = label.annotation.last - label.annotation.first
        assert label.replayed[label.annotation.task] <= span


def test_processes_and_the_command_line_find_the_same(recorded: Path) -> None:
    here = audit_dataset(recorded, AuditSpec(most=2))
    assert {label.verdict for _, _, label in here.labels()} <= {"confirmed", "not reproduced"}
    watched: list[tuple[int, int]] = []
    two = audit_dataset(
        recorded, AuditSpec(most=2), workers=2, watch=lambda *seen: watched.append(seen)
    )
    assert two.to_json() == here.to_json()
    total = len(here.stretches)
    assert watched == [(done, total) for done in range(total + 1)]
    command = ["dataset", "replay", str(recorded / "training"), "--workers", "0", "--json"]
    result = runner().invoke(cli, [*command, "--segments", "2"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(here.to_json()))


def test_a_wrong_label_is_named_with_what_was_done(spoilt: Path) -> None:
    truth = [label.task for label in SplitFolder(spoilt).annotations or ()]
    wrong = next(name for name in TASK_NAMES if name not in truth)
    relabel(spoilt, lambda labels: labels["task"].__setitem__(0, wrong))
    (first,) = verdicts(spoilt, most=1)
    assert (first.verdict, first.annotation.task) == ("wrong", wrong)
    assert truth[0] in first.done
    result = runner().invoke(cli, ["dataset", "replay", str(spoilt), "--workers", "0"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("wrong: training, frames")]
    assert wrong in line
    assert truth[0] in line.partition("done:")[2]
    (row,) = [line for line in lines if line.strip().startswith(wrong)]
    assert row.split()[1:5] == ["0", "0", "1", "0"]
    (instead,) = [line for line in lines if line.startswith(f"instead of {wrong}:")]
    assert f"{truth[0]} 1" in instead
    assert f"1 wrong of {len(truth)} labels" in lines[-1]


def test_actions_that_do_something_else_are_not_reproduced(spoilt: Path) -> None:
    label = next(iter(SplitFolder(spoilt).annotations or ()))
    for index in range(label.first, label.last):
        rewrite(spoilt, index, lambda arrays: arrays["rel_actions"].__setitem__(slice(6), 0))
    report = audit_dataset(spoilt, AuditSpec(most=1))
    found = next(one for _, _, one in report.labels())
    assert found.verdict == "not reproduced", "the recorded states still show it"
    assert label.task in found.recorded
    (_, _, played), *_ = report.stretches
    assert played.drift["robot_position"][-1] > 0.05
    assert report.drift[-1]["robot_position"]["max"] > 0.05
    assert report.counts["wrong"] == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda split: (split / "episode_0000040.npz").unlink(), "there is no frame 40"),
        (lambda split: rewrite(split, 40, lambda a: a.pop("scene_obs")), "no array scene_obs"),
        (lambda split: rewrite(split, 40, lambda a: a.update(robot_obs=np.zeros(7))), "robot_obs"),
        (lambda split: rewrite(split, 40, lambda a: a.update(scene_obs=np.array(["x"]))), ""),
        (lambda split: rewrite(split, 40, lambda a: a["rel_actions"].fill(0.5)), "gripper"),
    ],
    ids=["missing", "no state", "short state", "text", "no gripper command"],
)
def test_what_cannot_be_played_says_why(
    spoilt: Path, spoil: Callable[[Path], None], told: str
) -> None:
    relabel(spoilt, lambda labels: labels.update({k: v[:1] for k, v in labels.items()}))
    relabel(spoilt, lambda labels: labels["indx"].__setitem__(0, (30, 45)))
    spoil(spoilt)
    (first,) = [label for label in verdicts(spoilt) if label.annotation.last == 45]
    assert first.verdict == "unchecked"
    assert told in first.reason
    assert first.done == ()


def test_tasks_and_spans_that_cannot_be_meant(spoilt: Path) -> None:
    def change(labels: Mapping[str, list[Any]]) -> None:
        labels["task"][0] = "[bold]juggle"
        labels["indx"][1] = (20, 20)

    relabel(spoilt, change)
    by_task = {label.annotation.task: label for label in verdicts(spoilt)}
    assert by_task["[bold]juggle"].reason == "the task '[bold]juggle' is none of CALVIN's 34"
    assert any("two frames or more" in label.reason for label in by_task.values())
    result = runner().invoke(cli, ["dataset", "replay", str(spoilt), "--workers", "0"])
    assert result.exit_code == 3
    assert "[bold]juggle" in result.stdout


def test_what_it_was_recorded_with_is_found_beside_it(recorded: Path, tmp_path: Path) -> None:
    head = make(tmp_path / "head", revision="head", length=1)
    for path in (head, head / "training"):
        report = audit_dataset(path)
        assert (report.assets, report.revision) == ("builtin", "head")
    assert audit_dataset(head, AuditSpec(revision="pinned", most=1)).revision == "pinned"
    assert len(audit_dataset(recorded, AuditSpec(most=2)).stretches) == 2


def test_it_needs_to_know_the_scene_and_needs_labels(spoilt: Path) -> None:
    (spoilt / "scene_info.npy").unlink()
    shutil.rmtree(spoilt / ".hydra")
    with pytest.raises(UsageError, match="--scene"):
        audit_dataset(spoilt)
    assert verdicts(spoilt, scene="A", most=1)[0].verdict in ("confirmed", "not reproduced")
    with pytest.raises(UnknownNameError, match="scene 'E'"):
        AuditSpec(scene="E")
    shutil.rmtree(spoilt / "lang_annotations")
    with pytest.raises(UsageError, match="language annotations"):
        audit_dataset(spoilt)


def test_the_official_assets_play_back_what_they_recorded(tmp_path: Path) -> None:
    official = str(need_official())
    data = make(tmp_path / "data", assets=official, length=1)
    report = audit_dataset(data, AuditSpec(start="episode", assets=official))
    assert report.assets == "official"
    assert report.counts["confirmed"] == sum(report.counts.values()) >= 1
    assert all(max(p.drift["robot_position"][1:]) == 0 for _, _, p in report.stretches)


def test_distances_are_metres_and_radians() -> None:
    state = {"robot_obs": np.zeros(15), "scene_obs": np.zeros(24)}
    assert set(distances(state, state).values()) == {0.0}
    robot, scene = np.zeros(15), np.zeros(24)
    robot[:6] = 0.3, 0.4, 0, 0, 0, 2 * np.pi - 0.25
    scene[1], scene[12:18] = 0.07, (0, 0, 0.2, 0, 0.5, 0)
    found = distances({"robot_obs": robot, "scene_obs": scene}, state)
    assert found == pytest.approx(
        {"robot_position": 0.5, "robot_orientation": 0.25, "block_position": 0.2,
         "block_orientation": 0.5, "table": 0.07}
    )  # fmt: skip


def test_drift_is_summed_up_over_those_that_last_so_long() -> None:
    series = [{name: [0.0, value] for name in MEASURES} for value in (1.0, 2.0, 6.0)]
    series.append({name: [8.0] for name in MEASURES})
    rows = by_step(series, (0, 1, 2))
    assert [(row["step"], row["series"]) for row in rows] == [(0, 4), (1, 3)]
    assert rows[1]["table"]["median"] == 2
    assert rows[1]["table"]["max"] == 6
