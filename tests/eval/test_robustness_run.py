"""`calvin-eval robustness`: a folder of ordinary runs, gone on with as one, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from policy_texts import PRESS

from calvin_eval.cli.main import main
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts import obeyed
from calvin_eval.rollouts.verify.verify import verify_run
from calvin_eval.running.robustness import choose_cells
from calvin_eval.shifts import AXES, Shifts
from calvin_eval.sim.chains import load_chains

STEPS = 20
LISTENER = PRESS.replace("def step(self, obs, goal):", "def step(self, obs, goal):\n" + " " * 8 + (
    "if 'button' not in goal: return np.array([-0.12, -0.12, 0.55]), "
    "np.array([np.pi, 0, np.pi / 2]), -1"
))  # fmt: skip
"""Works the LED if it is told to, and else does nothing."""


def chains(folder: Path, count: int) -> Path:
    """A list of chains that begin with the LED."""
    states = [dict(c.initial_state) for c in load_chains("official") if not c.initial_state["led"]]
    path = folder / "list.json"
    path.write_text(json.dumps([[s, ["turn_on_led", "open_drawer"]] for s in states[:count]]))
    return path


def command(folder: Path, policy: str, count: int, *arguments: str) -> list[str]:
    (folder / "p.py").write_text(policy, encoding="utf-8")
    listed = chains(folder, count)
    return [
        "robustness", "--ckpt", f"{folder / 'p.py'}:Press", "--split", "D", "--workers", "0",
        "--quiet", f"protocol.chains={listed}", f"protocol.steps={STEPS}",
        "--out", str(folder / "suite"), *arguments,
    ]  # fmt: skip


def document(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "suite" / "robustness.json").read_text())
    return found


def test_cells_are_chosen_by_axes_and_levels() -> None:
    every = choose_cells(None, None)
    assert len(every) == sum(len(axis.levels) for axis in AXES.values())
    assert choose_cells("language,start", "2,empty") == (
        CellName(axis="start", level=2),
        CellName(axis="language", level=2),
        CellName(axis="language", level="empty"),
    )
    with pytest.raises(UnknownNameError, match="start"):
        choose_cells("strat", None)
    with pytest.raises(UnknownNameError, match="level"):
        choose_cells("start", "empty")
    with pytest.raises(UsageError, match="none"):
        choose_cells("", None)


def looked_at(folder: Path) -> None:
    """Frames of what can be seen, once; what was said; and a film of two runs of one chain."""
    frames = {path.name: Image.open(path) for path in (folder / "frames").iterdir()}
    assert set(frames) == {"clean.jpg", "start-1.jpg"}
    one, other = (np.asarray(frame).astype(int) for frame in frames.values())
    assert one.shape == other.shape == (284, 200, 3)
    assert np.abs(one - other).mean() > 1, "the arm stands elsewhere"
    page = (folder / "robustness.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    (film,) = (folder / "videos").iterdir()
    assert f'src="videos/{film.name}"' in page
    cell, _, chain = film.stem.partition("-chain")
    counts = [
        sum(subtask.steps + 21 for record in RunFolder.open(folder / name).records()
            for subtask in record.subtasks if record.chain == int(chain))
        for name in ("clean", cell)
    ]  # fmt: skip
    assert len(iio.imread(film, plugin="FFMPEG")) == max(counts)


def bundled(folder: Path, place: Path) -> None:
    """A suite is verified as it is and as bundles, and a better number is found out."""
    card = {"key": "mine", "name": "Mine", "training_split": "D", "licence": "MIT",
            "observation_space": ["nothing"], "action_space": "absolute",
            "parameters": 0, "links": {}}  # fmt: skip
    (place / "card.json").write_text(json.dumps(card))
    given = ["--chain-list", str(place / "list.json"), "--workers", "0", "--all"]
    target = place / "bundles"
    command = ["bundle", str(folder), "--meta", str(place / "card.json"), "--out", str(target)]
    assert main(command) == 0
    assert {path.name for path in target.iterdir()} == {
        "clean.zip", "start-1.zip", "language-1.zip", "language-another.zip", "robustness.json",
    }  # fmt: skip
    assert main(command) == 2, "nothing is written over"
    assert main(["verify", str(target), *given]) == 0
    found = json.loads((target / "robustness.json").read_text())
    found["clean"]["average_length"] = 4.9
    (target / "robustness.json").write_text(json.dumps(found))
    assert main(["verify", str(target), *given]) == 1
    (target / "start-1.zip").unlink()
    assert main(["verify", str(target), *given]) != 0


@pytest.mark.slow
def test_a_suite_is_runs_that_can_be_verified_and_is_gone_on_with_as_one(tmp_path: Path) -> None:
    asked = command(tmp_path, PRESS, 2, "--axes", "start,language", "--levels", "1,another")
    asked += ["--videos", "1"]
    assert main(asked) == 0
    folder = tmp_path / "suite"
    first = document(tmp_path)
    names = {p.name for p in folder.iterdir() if p.is_dir()} - {"frames", "videos"}
    assert names == {"clean", "start-1", "language-1", "language-another"}
    looked_at(folder)
    bundled(folder, tmp_path)
    shifted = RunFolder.open(folder / "start-1")
    assert shifted.header().protocol.shift == "start=1"
    checked = verify_run(RunFolder.open(folder / "language-another"))
    assert not [check for check in checked.chains if check.status == "deviates"]
    assert main(asked) == 2, "a folder with something in it is not written into"
    shutil.rmtree(folder / "start-1")
    journal = folder / "language-1" / "chains.jsonl"
    half = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(half[:-1]), encoding="utf-8")
    kept = (folder / "clean" / "chains.jsonl").read_bytes()
    assert main([*asked, "--resume"]) == 0
    assert document(tmp_path) == first
    assert (folder / "clean" / "chains.jsonl").read_bytes() == kept
    assert main([*asked, "--resume", "seed=3"]) == 2, "another policy seed is another suite"


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "listens"), [(PRESS, "no"), (LISTENER, "yes")])
def test_a_policy_that_does_not_listen_is_found_out(
    policy: str, listens: str, tmp_path: Path
) -> None:
    which = ("--axes", "language", "--levels", "empty,another")
    assert main(command(tmp_path, policy, 6, *which)) == 0
    spoken = document(tmp_path)["language"]
    assert isinstance(spoken, dict)
    assert spoken["listens"] == listens
    (another,) = [p for p in spoken["probes"] if p["level"] == "another"]
    assert another["clean"]["success"] == 6
    assert another["own"]["success"] == (6 if listens == "no" else 0)
    assert another["told"]["success"] == 0
    assert another["told"]["total"] == 6


@pytest.mark.slow
def test_what_was_done_besides_is_found_by_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(tmp_path, PRESS, 2, "--axes", "start", "--levels", "1")) == 0
    run = RunFolder.open(tmp_path / "suite" / "clean")
    for task, done in (("turn_on_led", True), ("open_drawer", False)):
        monkeypatch.setattr(obeyed, "told_task", lambda chain, position, task=task: task)
        found = obeyed.did_another(run, [0, 1, 99], Shifts.parse("language=another"))
        assert found == {0: done, 1: done}


@pytest.mark.slow
def test_what_does_not_belong_into_a_suite_is_refused(tmp_path: Path) -> None:
    asked = command(tmp_path, PRESS, 2, "--axes", "start")
    assert main([*asked, "protocol.shift=start=1"]) == 2
    assert main([*asked, "gate=min-avg-len=1"]) == 2
    assert main([*asked, "--resume"]) == 2
    assert not (tmp_path / "suite").exists()
