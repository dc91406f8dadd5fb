"""`calvin-eval merge` on real shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from policy_texts import SOMETIMES

from calvin_eval.cli.merge import merge
from calvin_eval.config.compose import compose_config
from calvin_eval.console.display import QuietDisplay
from calvin_eval.errors import RunFolderError
from calvin_eval.results.header import SAME_RUN
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.running.outcome import Run
from calvin_eval.running.run import run_evaluations

pytestmark = pytest.mark.processes


def run(out: Path, *overrides: str, ckpt: str = "builtin:random") -> Run:
    config = compose_config(
        ["protocol.num_chains=6", "protocol.steps=30", "engine.workers=0", *overrides],
        {"ckpt": ckpt, "out": str(out)},
    )
    (done,) = run_evaluations([config], QuietDisplay())
    return done  # type: ignore[return-value]


def call_merge(*arguments: object) -> Result:
    return CliRunner().invoke(merge, list(map(str, arguments)))


def without_times(records: list[ChainRecord]) -> bytes:
    """The journal's bytes as they would be if no subtask took any time."""
    return encode_journal(
        replace(r, subtasks=tuple(replace(s, seconds=0.0) for s in r.subtasks)) for r in records
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    where = tmp_path_factory.mktemp("parts")
    return [run(where / f"part{i}", f"shard={i}/3").folder for i in (1, 2, 3)]


def test_three_shards_equal_the_unsharded_run(parts: list[Path], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole").folder
    done = call_merge(*parts[::-1], "--out", tmp_path / "merged")
    assert done.exit_code == 0, done.exception
    assert "6 chains" in done.stdout
    assert "from 3 shards" in done.stdout
    mine, theirs = RunFolder.open(tmp_path / "merged"), RunFolder.open(whole)
    assert without_times(mine.records()) == without_times(theirs.records())
    assert [record.chain for record in mine.records()] == list(range(6))
    # On disk, in this order, and nothing beside it.
    assert (mine.path / "chains.jsonl").read_bytes() == encode_journal(mine.records())
    for name in ("summary.json", "results.json"):
        assert (mine.path / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in whole.iterdir()} <= {
        *(path.name for path in mine.path.iterdir()), "profile.json", "policy.log",
    }  # fmt: skip
    assert (mine.path / "tasks.csv").read_bytes() == (whole / "tasks.csv").read_bytes()
    assert (mine.path / "report.html").stat().st_size > 0
    for path in (whole / "actions").iterdir():
        assert (mine.path / "actions" / path.name).read_bytes() == path.read_bytes()
    header, other = mine.document(), theirs.document()
    for section in (*SAME_RUN, "verdict", "status"):
        assert header[section] == other[section], section


def test_a_merged_run_with_an_error_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOMETIMES)
    ckpt = f"{tmp_path / 'mine.py'}:Policy"
    runs = [run(tmp_path / f"{i}", f"shard={i}/2", ckpt=ckpt) for i in (1, 2)]
    broken = [r.chain for part in runs for r in part.records if r.status == "error"]
    assert 0 < len(broken) < 6, "the test needs some chains that break and some that do not"
    done = call_merge(*(part.folder for part in runs), "--out", tmp_path / "merged")
    assert done.exit_code == 3
    summary = json.loads((tmp_path / "merged" / "summary.json").read_text())
    assert (summary["planned"], summary["errors"]) == (6, len(broken))
    assert summary["average_length"] is None
    assert not (tmp_path / "merged" / "results.json").exists()
    records = RunFolder.open(tmp_path / "merged").records()
    assert sorted(broken) == [r.chain for r in records if r.status == "error"]
    assert "not an odd instruction" in str(next(r.error for r in records if r.error))


def test_what_is_refused_writes_nothing(parts: list[Path], tmp_path: Path) -> None:
    done = call_merge(*parts[:2], "--out", tmp_path / "merged")
    assert isinstance(done.exception, RunFolderError)
    assert "missing: 3/3" in str(done.exception)
    other = run(tmp_path / "other", "shard=3/3", "seed=1").folder
    done = call_merge(*parts[:2], other, "--out", tmp_path / "merged")
    assert "config.seed: 0 and 1" in str(done.exception)
    assert not (tmp_path / "merged").exists()


def test_the_slurm_array_of_the_docs_runs_and_merges(tmp_path: Path) -> None:
    """Its script, with a policy and chains that take no time, and after a requeue."""
    docs = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    blocks = [block.split("```")[0] for block in docs.split("```bash\n")[1:]]
    (script,) = (block for block in blocks if "SLURM_ARRAY_TASK_ID" in block)
    long, short = "--ckpt policy.pt --split ABC_D --assets official", "--ckpt builtin:still"
    assert long in script
    script = script.replace(long, f"{short} protocol.steps=2 protocol.num_chains=3")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    for task in (1, 2, 2):
        subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, check=True, capture_output=True,
            env={**environment, "SLURM_ARRAY_TASK_ID": str(task)},
        )  # fmt: skip
    command = docs.split('--wrap "')[1].split('"')[0]
    subprocess.run(
        ["bash", "-euc", command], cwd=tmp_path, check=True, capture_output=True, env=environment
    )
    whole = RunFolder.open(tmp_path / "runs" / "mine" / "whole")
    assert [record.chain for record in whole.records()] == [0, 1, 2]
