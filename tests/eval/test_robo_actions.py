"""`calvin-eval export --robo-actions`: a run's actions as records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calvin_eval.cli.main import main
from calvin_eval.errors import UsageError
from calvin_eval.results.store import RunFolder
from calvin_eval.running.robo_actions import FILE, robo_action
from calvin_eval.wrappers.robo_action import ControlMode


@pytest.mark.slow
def test_every_action_of_a_run_is_a_line(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "records"
    short = ("protocol.steps=5", "protocol.num_chains=2", "engine.workers=0")
    arguments = ["--ckpt", "builtin:random", "--split", "D", "--out", str(run), "--quiet"]
    assert main([*arguments, *short]) == 0
    assert main(["export", "--robo-actions", str(run), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / FILE).read_text().splitlines()]
    folder = RunFolder.open(run)
    records = folder.records()
    executed = {record.chain: folder.read_actions(record.chain) for record in records}
    assert len(lines) == sum(len(rows) for found in executed.values() for rows in found.values())
    for line in lines:
        action = executed[line["chain"]][line["subtask"]][line["step"]]
        np.testing.assert_array_equal([*line["translation"], *line["rotation"]], action[:6])
        assert line["gripper"] == (action[6] > 0)
        assert line["confidence"] is None
        assert line["prediction_horizon"] == 5 - line["step"]
    (record,) = (r for r in records if r.chain == lines[0]["chain"])
    assert lines[0]["instruction"] == record.subtasks[0].instruction
    assert lines[0]["task"] == record.subtasks[0].task


def test_poses_are_positions_and_joints_are_none() -> None:
    pose = (np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 0.0, 1.0]), -1.0)
    found = robo_action(pose, "lift it", 4)
    assert found.translation == (0.1, 0.2, 0.3)
    assert found.rotation == (0, 0, 0)
    assert (found.gripper, found.control_mode) == (0, ControlMode.POSITION)
    assert (found.action_type, found.prediction_horizon) == ("grab", 4)
    with pytest.raises(UsageError, match="joint_rel"):
        robo_action({"type": "joint_rel", "action": np.zeros(8)}, "lift it", 1)
