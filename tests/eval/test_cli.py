"""The command line as a user meets it, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from calvin_eval.results.journal import read_journal

pytestmark = pytest.mark.processes

POLICY = '''
import numpy as np

class Circles:
    """Upstream's custom-model interface, and nothing else."""

    requirements = {"rgb": ["gripper"]}

    def __init__(self, radius=1.0):
        self.radius = radius

    def reset(self):
        self.t = 0

    def step(self, obs, goal):
        assert obs["rgb_obs"]["rgb_gripper"].shape == (84, 84, 3)
        self.t += 1
        x, y = self.radius * np.cos(self.t / 5), self.radius * np.sin(self.t / 5)
        return np.array([x, y, 0, 0, 0, 0, 1 if "open" in goal else -1])
'''


def calvin_eval(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calvin_eval", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **env},
    )


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.slow
def test_a_run_leaves_everything_it_promises(tmp_path: Path) -> None:
    done = calvin_eval(
        "--ckpt", "builtin:random", "--split", "D", "--num-chains", "2", "--out", "runs/first",
        "protocol.steps=40", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 chains" in done.stdout
    assert "Not comparable with published results" in done.stdout
    assert "Budget" in done.stdout
    assert "2/2 chains" in done.stderr
    run = tmp_path / "runs" / "first"
    header = json.loads((run / "header.json").read_text())
    assert header["status"] == "finished"
    assert header["schema_version"] == 1
    assert header["config"]["protocol"]["steps"] == 40
    assert header["renderer"]["backend"] == "none"
    assert len(header["assets"]["fingerprint"]) == len(header["chains"]["sha256"]) == 64
    facts = header["machine"]
    assert header["provenance"]["packages"][facts["distribution"]] == facts["pybullet"]
    assert header["verdict"]["official"] is False
    results = json.loads((run / "results.json").read_text())["null"]
    summary = json.loads((run / "summary.json").read_text())
    assert results["avg_seq_len"] == summary["average_length"]
    assert list(results["chain_sr"]) == ["1", "2", "3", "4", "5"]
    assert [record.chain for record in read_journal(run / "chains.jsonl")] == [0, 1]


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_records(tmp_path: Path) -> None:
    for name in "ab":
        done = calvin_eval(
            "--ckpt", "builtin:random", "--chains", "5,7", "--out", name, "--seed", "3",
            "protocol.steps=60", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    first, second = (read_journal(tmp_path / name / "chains.jsonl") for name in "ab")
    assert [record.chain for record in first] == [5, 7]
    assert all(a.outcome() == b.outcome() for a, b in zip(first, second, strict=True))


def test_a_policy_class_of_ones_own_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    done = calvin_eval(
        "--ckpt", "mine:Circles", "--num-chains", "1", "--render", "tiny", "--out", "run",
        "policy.options.radius=0.5", "protocol.steps=5", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stderr
    assert "Circles" in done.stderr
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    assert header["renderer"]["backend"] == "tiny"


def test_a_policy_that_raises_makes_errors_and_not_failures(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY.replace("self.t += 1", "self.t += 1 / 0"))
    done = calvin_eval(
        "--ckpt", "mine.py:Circles", "--num-chains", "2", "--render", "tiny", "--out", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    assert "Incomplete" in done.stdout
    assert "ZeroDivisionError" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["errors"], summary["completed"]) == (2, 0)
    assert summary["average_length"] is None
    assert not (tmp_path / "run" / "results.json").exists()


def test_recorded_actions_replay(tmp_path: Path) -> None:
    actions = np.tile([0.0, 0, 0.1, 0, 0, 0, 1], (4, 1))
    np.savez(tmp_path / "recorded.npz", chain0002_sub0_actions=actions)
    done = calvin_eval(
        "--ckpt", "recorded.npz", "--chains", "2", "protocol.steps=6", "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read_journal(tmp_path / "run" / "chains.jsonl")[0].subtasks[0].steps == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ckpt", "nowhere.pt"), "nowhere.pt"),
        (("--ckpt", "builtin:rndom"), "Did you mean"),
        (("--ckpt", "mine.py:Circels"), "Did you mean 'Circles'"),
        (("--ckpt", "builtin:still", "--split", "E"), "unknown split 'E'"),
        (("--ckpt", "builtin:still", "--assets", "nowhere"), "nowhere"),
        (("--ckpt", "builtin:still", "--num-chains", "1001"), "1000"),
        (("--ckpt", "builtin:still", "--chains", "1000"), "1000"),
        (("--ckpt", "corrupt.pt"), "corrupt.pt"),
        (("--ckpt", "builtin:still", "protocol.instructions=nowhere.yaml"), "nowhere.yaml"),
        (("--split", "D"), "--ckpt"),
        (("--ckpt", "builtin:still", "protcol.steps=1"), "Did you mean protocol.steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "corrupt.pt").write_bytes(b"PK\x03\x04 this was a checkpoint once")
    done = calvin_eval(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    error = one_line("\n".join(
        line for line in done.stderr.splitlines()
        if not line.startswith(("policy:", "assets:", "chains:"))
    ))  # fmt: skip
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_a_damaged_pack_is_named(tmp_path: Path, official: str) -> None:
    import shutil

    pack = tmp_path / "calvin"
    shutil.copytree(official, pack)
    for folder, _, _ in os.walk(pack):
        os.chmod(folder, 0o755)
    scene = pack / "calvin_env/conf/scene/calvin_scene_D.yaml"
    scene.chmod(0o644)
    scene.write_text(scene.read_text() + "\n# touched\n")
    done = calvin_eval("--ckpt", "builtin:still", "--assets", str(pack), cwd=tmp_path)
    assert done.returncode == 2
    assert "calvin_scene_D.yaml" in done.stderr
    scene.unlink()
    done = calvin_eval("--ckpt", "builtin:still", "--assets", str(pack), cwd=tmp_path)
    assert done.returncode == 2
    assert "calvin_scene_D.yaml" in done.stderr


def test_an_existing_run_is_never_overwritten_silently(tmp_path: Path) -> None:
    run = ("--ckpt", "builtin:still", "--num-chains", "1", "--out", "run", "protocol.steps=2")
    assert calvin_eval(*run, cwd=tmp_path).returncode == 0
    before = (tmp_path / "run" / "chains.jsonl").read_bytes()
    refused = calvin_eval(*run, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "run" / "chains.jsonl").read_bytes() == before
    assert calvin_eval(*run, "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / "run.bak-1" / "chains.jsonl").read_bytes() == before


def test_the_resolved_configuration_is_printed_and_nothing_runs(tmp_path: Path) -> None:
    done = calvin_eval("--ckpt", "x.pt", "--split", "ABC_D", "--print-config", cwd=tmp_path)
    assert done.returncode == 0
    config = yaml.safe_load(done.stdout)
    assert config["split"] == "ABC_D"
    assert config["protocol"]["steps"] == 360
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_options_of_a_run(tmp_path: Path) -> None:
    done = calvin_eval("--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ("--ckpt", "--split", "--num-chains", "--assets", "--render", "--revision"):
        assert option in done.stdout
    assert calvin_eval("--version", cwd=tmp_path).stdout.startswith("calvin-eval")


def test_several_checkpoints_in_one_call(tmp_path: Path) -> None:
    for name in ("one", "two"):
        actions = np.tile([0.0, 0, 0.1, 0, 0, 0, 1], (3, 1))
        np.savez(tmp_path / f"{name}.npz", chain0000_sub0_actions=actions)
    done = calvin_eval(
        "--ckpt", "*.npz", "--ckpt", "builtin:still", "--num-chains", "1", "--out", "all",
        "--workers", "1", "protocol.steps=4", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folders = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert folders == ["builtin-still", "one.npz", "two.npz"]
    table = done.stdout[done.stdout.rindex("run ") :]
    assert all(name in table for name in folders)


def test_a_checkpoint_that_cannot_be_loaded_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("class Bad:\n    def __init__(self): raise ValueError('no')\n")
    done = calvin_eval(
        "--ckpt", "bad.py:Bad", "--ckpt", "builtin:still", "--num-chains", "1", "--out", "all",
        "--workers", "1", "protocol.steps=4", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    table = done.stdout[done.stdout.rindex("run ") :]
    assert "builtin-still" in table
    assert "bad.py-Bad failed: " in table
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["builtin-still"]
    assert "Traceback" not in done.stderr


def test_a_gate_stops_the_run_and_gives_the_exit_code(tmp_path: Path) -> None:
    done = calvin_eval(
        "--ckpt", "builtin:still", "--num-chains", "60", "--gate", "min-avg-len=3", "--out", "run",
        "protocol.steps=1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert len(read_journal(tmp_path / "run" / "chains.jsonl")) < 60
    assert "fail" in done.stdout
    assert (tmp_path / "run" / "junit.xml").is_file()


def test_a_card_is_reproduced_before_the_rest_is_run(tmp_path: Path) -> None:
    run = ("--ckpt", "builtin:random", "--num-chains", "6", "protocol.steps=8")
    assert calvin_eval(*run, "--out", "first", cwd=tmp_path).returncode == 0
    assert calvin_eval("card", "first", "-o", "card.json", cwd=tmp_path).returncode == 0
    again = calvin_eval(*run, "--out", "again", "--expect", "card.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "reproduced" in again.stderr
    other = calvin_eval(
        *run, "--out", "other", "--seed", "5", "--expect", "card.json", cwd=tmp_path
    )
    assert "differ" in other.stderr
    wrong = calvin_eval(
        *run[:-1], "protocol.steps=9", "--out", "wrong", "--expect", "card.json", cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert "protocol.steps" in wrong.stderr
