"""The template of a leaderboard's repository: every step of its workflows, one by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from forging import bundled, chance_run, edit_records, forged_bundle

from calvin_eval.results.model_card import read_model_card
from calvin_eval.results.store import RunFolder

TEMPLATE = Path(__file__).parents[1] / "docs/examples/leaderboard"
ELSEWHERE = {"Install", "Fetch the official assets"}
"""Steps that need a package index or upstream's repositories."""

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def steps(workflow: str) -> list[dict[str, Any]]:
    text = (TEMPLATE / ".github/workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    return [step for step in job["steps"] if "run" in step and step["name"] not in ELSEWHERE]


def git(place: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(place: Path) -> str:
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message", "entries")
    return git(place, "rev-parse", "HEAD")


def run_workflow(place: Path, workflow: str, base: str = "") -> list[int]:
    """Exit codes of the steps, as the shell of the build service would run them."""
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ, "BASE": base, "GITHUB_STEP_SUMMARY": str(place.parent / "summary.md"),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    codes = []
    for step in steps(workflow):
        script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
        codes.append(subprocess.run(script, cwd=place, env=environment, check=False).returncode)
    return codes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chance_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "board"
    shutil.copytree(TEMPLATE, place)
    git(place, "init", "--quiet")
    commit(place)
    return place


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_pull_request_and_its_merge(run: Path, repository: Path, tmp_path: Path) -> None:
    base = git(repository, "rev-parse", "HEAD")
    bundled(run, repository / "entries/mine.zip")
    commit(repository)
    assert run_workflow(repository, "check", base) == [0, 0]
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("**Can be an entry.** `mine.zip`")
    assert summary.strip().count("\n") == 0
    for again in range(2):
        assert run_workflow(repository, "publish") == [0]
        data = json.loads((repository / "site/index.json").read_bytes())
        assert data["sections"][0]["entries"][0]["badge"]["level"] == "all"
        assert len(list((repository / "records").glob("*.json"))) == 1, again


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_forgery_in_a_pull_request(run: Path, repository: Path, tmp_path: Path) -> None:
    base = git(repository, "rev-parse", "HEAD")
    copy = RunFolder.open(shutil.copytree(run, tmp_path / "copy"))
    edit_records(copy, lambda data: data[0]["subtasks"][-1].update(state_hash="0" * 32))
    forged_bundle(copy.path, repository / "entries/forged.zip")
    commit(repository)
    assert run_workflow(repository, "check", base) == [0, 1]
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("**Cannot be an entry.** `forged.zip`")
    assert "what it claims is not what its actions give" in summary
    assert run_workflow(repository, "publish") == [0]
    data = json.loads((repository / "site/index.json").read_bytes())
    assert data["sections"] == []
    assert data["refused"][0]["file"] == "forged.zip"


def test_the_card_to_fill_in_is_one() -> None:
    assert read_model_card(TEMPLATE / "model.yaml").name == "My policy"
