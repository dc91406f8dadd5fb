"""Runs of other chains: long ones, start states as numbers, the robot put back between subtasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from policy_texts import PRESS

from calvin_eval.cli.main import main
from calvin_eval.results.store import RunFolder
from calvin_eval.sim.chains import load_chains

pytestmark = pytest.mark.processes

CHAIN = next(c for c in load_chains("official") if not c.initial_state["led"])
SCENE, ROBOT = CHAIN.scene_obs.tolist(), CHAIN.robot_obs.tolist()


def run(out: Path, *arguments: str) -> RunFolder:
    policy = out.with_name("press.py")
    policy.write_text(PRESS, encoding="utf-8")
    command = ["--ckpt", f"{policy}:Press", "--workers", "0", "--quiet", "--out", str(out)]
    assert main([*command, "--render", "none", *arguments]) == 0
    return RunFolder.open(out)


def write(path: Path, content: Any) -> str:
    path.write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    return str(path)


def led_first() -> list[str]:
    return ["turn_on_led", "turn_off_led"]


@pytest.mark.slow
def test_numbers_and_the_robot_put_back_are_verified_and_filmed(tmp_path: Path) -> None:
    moved = [*ROBOT[:7], *(angle + 0.02 for angle in ROBOT[7:14]), ROBOT[14]]
    entry = {"scene_obs": SCENE, "robot_obs": moved, "tasks": led_first()}
    chains = write(tmp_path / "mine.jsonl", [entry])
    out = tmp_path / "run"
    folder = run(
        out, f"protocol.chains={chains}", "protocol.world_reset=robot", "protocol.steps=40"
    )
    (record,) = folder.records()
    assert record.length == 2, "the button was pressed twice, the second time from the start pose"
    assert record.start is not None
    assert record.start.robot_obs == tuple(moved)
    assert main(["verify", str(out), "--chain-list", chains]) == 0
    assert main(["verify", str(out)]) == 0, "the records have the start states"
    films = tmp_path / "films"
    options = ["--render", "tiny", "--size", "48", "--out", str(films)]
    assert main(["video", str(out), "--all", *options]) == 0
    assert [path.name for path in films.iterdir()] == ["chain0000.mp4"]
    assert main(["report", str(out)]) == 0
    reasons = " ".join(folder.read_json("summary.json")["verdict"]["reasons"])
    assert "Fresh world per: expected chain, found chain, and the robot put back" in reasons


@pytest.mark.slow
def test_a_start_state_that_was_changed_is_found(tmp_path: Path) -> None:
    chains = write(tmp_path / "mine.jsonl", [{"scene_obs": SCENE, "tasks": led_first()}])
    out = tmp_path / "run"
    run(out, f"protocol.chains={chains}", "protocol.steps=5")
    journal = out / "chains.jsonl"
    from calvin_eval.results.journal import encode_journal

    (record,) = RunFolder.open(out).records()
    data = record.to_json()
    data["start"]["scene_obs"][6] += 0.01
    journal.write_bytes(encode_journal([type(record).from_json(data)]))
    assert main(["verify", str(out), "--chain-list", chains]) == 1
    assert main(["verify", str(out)]) == 1


@pytest.mark.slow
def test_a_chain_of_fifty_tasks_is_run_verified_and_reported(tmp_path: Path) -> None:
    tasks = led_first() * 25
    chains = write(
        tmp_path / "long.jsonl", [{"initial_state": dict(CHAIN.initial_state), "tasks": tasks}]
    )
    out = tmp_path / "run"
    folder = run(
        out, f"protocol.chains={chains}", "protocol.world_reset=robot", "protocol.steps=40"
    )
    (record,) = folder.records()
    assert record.length > 5
    assert len(record.tasks) == 50
    assert main(["verify", str(out), "--chain-list", chains]) == 0
    assert main(["report", str(out)]) == 0
