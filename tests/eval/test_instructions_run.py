"""Runs with sentences of the user: what is refused, said, given to the policy and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.cli.main import main
from calvin_eval.results.store import RunFolder
from calvin_eval.sim.symbolic import TASK_NAMES

pytestmark = pytest.mark.processes

CACHE = [[f"do this. \n\nDo that {i}{k}" for k in range(5)] for i in range(3)]
MANY = {task: [f"{task} in {i} words" for i in range(9)] for task in TASK_NAMES}


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def run(out: Path, file: str, *arguments: str) -> int:
    command = ["--ckpt", "builtin:still", "--workers", "0", "--render", "none", "--out", str(out)]
    rules = ["protocol.steps=3", f"protocol.instructions={file}"]
    return main([*command, "--quiet", *rules, *arguments])


def told(out: Path) -> list[str]:
    records = RunFolder.open(out).records()
    return [subtask.instruction for record in records for subtask in record.subtasks]


@pytest.mark.parametrize("chains", ["dev", "single:3:open_drawer"])
def test_sentences_of_other_chains_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chains: str
) -> None:
    file = write(tmp_path / "cache.json", CACHE)
    assert run(tmp_path / "out", file, "--num-chains", "3", f"protocol.chains={chains}") == 2
    assert "sentences per chain belong to one chain list" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], [CACHE[i][0] for i in range(3)]),
        (["protocol.instruction_lines=first"], ["do this. "] * 3),
        (["--policy", "roboflamingo", "policy.observe=null"], ["do this. "] * 3),
    ],
)
def test_the_policy_is_given_all_lines_or_the_first(
    tmp_path: Path, rules: list[str], expected: list[str]
) -> None:
    file = write(tmp_path / "cache.json", CACHE)
    assert run(tmp_path / "out", file, "--num-chains", "3", *rules) == 0
    assert told(tmp_path / "out") == expected
    assert main(["verify", str(tmp_path / "out"), "--instructions", file]) == 0


def test_a_draw_is_verified_and_another_seed_is_no_draw_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "many.json", MANY), tmp_path / "out"
    assert run(out, file, "--num-chains", "6", "protocol.instruction_draw=7") == 0
    assert len({sentence.split(" in ")[1] for sentence in told(out)}) > 1
    assert main(["verify", str(out), "--instructions", file]) == 0
    header = json.loads((out / "header.json").read_text())
    assert header["config"]["protocol"]["instruction_draw"] == 7
    header["config"]["protocol"]["instruction_draw"] = 8
    (out / "header.json").write_text(json.dumps(header))
    capsys.readouterr()
    assert main(["verify", str(out), "--instructions", file]) == 2
    assert "expected the instructions" in capsys.readouterr().err
