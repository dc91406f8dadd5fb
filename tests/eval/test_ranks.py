"""One run by several processes of a launcher."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from policy_texts import SOMETIMES

from calvin_eval.cli import main as cli
from calvin_eval.config.compose import compose_config
from calvin_eval.config.schema import EvalConfig
from calvin_eval.console.display import QuietDisplay
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.store import RunFolder
from calvin_eval.running import ranks
from calvin_eval.running.launch import Launch
from calvin_eval.running.outcome import FailedRun, Run
from calvin_eval.running.ranks import run_ranked
from calvin_eval.running.run import run_evaluation

pytestmark = pytest.mark.processes
DOCS = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")


def config_of(out: Path, *overrides: str, ckpt: str = "builtin:random", **more: Any) -> EvalConfig:
    short = ["protocol.num_chains=5", "protocol.steps=8", "engine.workers=0"]
    return compose_config([*short, *overrides], {"ckpt": ckpt, "out": str(out), **more})


def process(rank: int, size: int = 2) -> Launch:
    return Launch(launcher="torchrun", rank=rank, size=size, local_rank=None, label=None)


def run_as(rank: int, config: EvalConfig, size: int = 2) -> list[Run | FailedRun]:
    return run_ranked([config], process(rank, size), QuietDisplay())


def journal(folder: Path) -> bytes:
    """As it would be if no subtask took any time."""
    return encode_journal(
        replace(r, subtasks=tuple(replace(s, seconds=0.0) for s in r.subtasks))
        for r in RunFolder.open(folder).records()
    )


def test_the_processes_run_what_one_would(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (other,) = run_as(1, config_of(out))
    assert not (out / "header.json").exists()
    (whole,) = run_as(0, config_of(out))
    assert isinstance(whole, Run)
    assert isinstance(other, Run)
    assert [record.chain for record in other.records] == [1, 3]
    assert (whole.folder, whole.exit_code, len(whole.records)) == (out.resolve(), 0, 5)
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["1-of-2", "2-of-2"]
    alone = run_evaluation(config_of(tmp_path / "alone"), QuietDisplay())
    assert journal(out) == journal(alone.folder)
    assert (out / "results.json").read_bytes() == (alone.folder / "results.json").read_bytes()


def test_processes_without_a_chain_have_nothing_to_do(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", "protocol.num_chains=1")
    assert run_as(1, config) == []
    (whole,) = run_as(0, config)
    assert whole.exit_code == 0


def test_errors_are_the_first_process_s_to_report(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOMETIMES)
    config = config_of(tmp_path / "run", ckpt=f"{tmp_path / 'mine.py'}:Policy")
    environment = {"RANK": "1", "WORLD_SIZE": "2"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        arguments = ["--ckpt", config.ckpt, "--num-chains=5", "--workers=0", "protocol.steps=8"]
        assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    part = RunFolder.open(tmp_path / "run/shards/2-of-2")
    assert any(record.status == "error" for record in part.records())
    (whole,) = run_as(0, config)
    assert whole.exit_code == 3


def test_the_first_process_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(ranks, "_POLL_SECONDS", 0.05)
    config = config_of(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"nothing new there.*--resume.*calvin-eval merge"):
        run_as(0, config)
    assert len(RunFolder.open(tmp_path / "run/shards/1-of-2").records()) == 3
    # The same processes again, with --resume.
    again = config_of(tmp_path / "run", resume=True)
    run_as(1, again)
    (whole,) = run_as(0, again)
    assert whole.exit_code == 0


def test_a_shard_that_was_stopped_ends_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path / "run")
    run = ranks.run_evaluation

    def then_the_other(mine: EvalConfig, display: Any) -> Run:
        other = replace(mine, shard="2/2", out=str(tmp_path / "run/shards/2-of-2"))
        RunFolder.open(run(other, display).folder).update_header(status="interrupted")
        return run(mine, display)

    monkeypatch.setattr(ranks, "run_evaluation", then_the_other)
    with pytest.raises(RunFolderError, match="status 'interrupted'"):
        run_as(0, config)


def test_an_older_end_of_a_shard_is_not_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was interrupted before is being resumed: its old status means nothing."""
    run_as(1, config_of(tmp_path / "run"))
    part = RunFolder.open(tmp_path / "run/shards/2-of-2")
    part.update_header(status="interrupted")
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        part.update_header(status="started" if len(waits) == 1 else "finished")

    clock = SimpleNamespace(sleep=pause, monotonic=time.monotonic)
    monkeypatch.setattr(ranks, "time", clock)
    (whole,) = run_as(0, config_of(tmp_path / "run", resume=True))
    assert whole.exit_code == 0
    assert len(waits) == 2


def test_a_shard_with_all_its_chains_is_left_alone(tmp_path: Path) -> None:
    run_as(1, config_of(tmp_path / "run"))
    header = tmp_path / "run/shards/2-of-2/header.json"
    before = header.stat().st_mtime_ns
    assert run_as(1, config_of(tmp_path / "run", resume=True)) == []
    assert header.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=ray"], "engine=ray spreads a run by itself: expected one process"),
        (["gate=min-avg-len=3"], "--devices cuda:0,cuda:1, or no --gate"),
        (["overwrite=true"], "expected a new --out"),
    ],
)
def test_what_cannot_be_divided(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_as(0, config_of(tmp_path / "run", *overrides, "engine.workers=1"))


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    run_evaluation(config_of(tmp_path / "run"), QuietDisplay())
    for rank in (0, 1):
        with pytest.raises(UsageError, match="Choose another --out"):
            run_as(rank, config_of(tmp_path / "run"))


def test_a_shard_of_the_users_own_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["--ckpt=builtin:still", "--num-chains=4", "--workers=0", "protocol.steps=2"]
    assert cli.main([*arguments, "--quiet", "--shard=1/4", f"--out={tmp_path / 'run'}"]) == 0
    assert [r.chain for r in RunFolder.open(tmp_path / "run").records()] == [0]


def command_of(launcher: str) -> str:
    """The line of the docs, with a policy and chains that take no time."""
    line = next(line for line in DOCS.splitlines() if line.startswith(f"{launcher} "))
    long = "--ckpt policy.pt --split ABC_D"
    assert long in line
    return line.replace(long, "--ckpt builtin:random --num-chains 5 protocol.steps=8 --workers 1")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    path = os.pathsep.join([str(folder), str(scripts), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euc", command], cwd=folder, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PATH": path, "TMPDIR": str(folder), **environment},
    )  # fmt: skip


def check_whole(done: subprocess.CompletedProcess[str], out: Path) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 chains") == 1
    assert [record.chain for record in RunFolder.open(out).records()] == list(range(5))


@pytest.mark.slow
@pytest.mark.needs("torch")
def test_the_torchrun_line_of_the_docs(tmp_path: Path) -> None:
    done = shell(command_of("torchrun"), tmp_path)
    check_whole(done, tmp_path / "runs/mine")


SRUN = """#!/bin/bash
# As SLURM's: every task has its number, and the exit code is the largest.
while [ "$1" != calvin-eval ]; do [ "$1" = --ntasks ] && tasks=$2; shift; done
export SLURM_JOB_ID=77 SLURM_STEP_ID=0 SLURM_NTASKS=$tasks SLURM_STEP_NUM_TASKS=$tasks
for ((i = 0; i < tasks; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "${code:-0}"
"""


@pytest.mark.slow
def test_the_srun_line_of_the_docs(tmp_path: Path) -> None:
    """Without `--out`, the folder has the job's number."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    line = command_of("srun").replace("--ntasks 8", "--ntasks 2")
    done = shell(line.removesuffix(" --out runs/mine"), tmp_path)
    check_whole(done, tmp_path / "runs/slurm-77-0")
    header = json.loads((tmp_path / "runs/slurm-77-0/header.json").read_text())
    assert len(header["merged_from"]) == 2
