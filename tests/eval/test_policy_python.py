"""A policy's process in another environment's Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calvin_eval.results.journal import read_journal

pytestmark = pytest.mark.processes

POLICY = """
import os

class Still:
    requirements = {}

    def __init__(self):
        assert os.environ["OTHER_ENVIRONMENT"] == "yes"

    def reset(self):
        pass

    def step(self, obs, goal):
        return [0, 0, 0, 0, 0, 0, 1]
"""


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(POLICY)
    return subprocess.run(
        [
            sys.executable, "-m", "calvin_eval", "--ckpt", "mine.py:Still", "--num-chains", "1",
            "--out", "run", "protocol.steps=3", *overrides,
        ],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_the_named_python_runs_the_policy(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nOTHER_ENVIRONMENT=yes exec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    done = run(tmp_path, f"policy.python={other}")
    assert done.returncode == 0, done.stderr
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    assert header["config"]["policy"]["python"] == str(other)
    (record,) = read_journal(tmp_path / "run" / "chains.jsonl")
    assert record.status == "completed"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.python=/nowhere/python"], "/nowhere/python: it cannot be run"),
        (["policy.python=/usr/bin/true"], "the process that loads it died: exit code 0"),
        (["policy.python=python", "engine.workers=0"], "expected engine=local and one worker"),
    ],
)
def test_a_python_that_does_not_do_is_an_error(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = run(tmp_path, *overrides)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
