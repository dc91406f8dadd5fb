"""The leaderboard of the policies that come with the project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tooling import load_tool

from calvin_eval.results.model_card import parse_model_card

board = load_tool("leaderboard_site")


def test_every_policy_has_a_card() -> None:
    for policy, about in board.POLICIES.items():
        assert parse_model_card({**about, **board.CARD}, policy).name


def test_jobs_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALVIN_EVAL_ASSETS", str(tmp_path / "none"))
    names = [job.name for job in board.jobs(list(board.POLICIES))]
    assert names == [
        "expert-builtin", "expert-builtin-shifted", "random-builtin", "random-builtin-shifted",
        "reference-builtin", "reference-builtin-shifted",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
def test_runs_become_a_site_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALVIN_EVAL_ASSETS", str(tmp_path / "none"))
    arguments = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "site"),
                 "--chains", "1", "--workers", "0", "--policies", "random"]  # fmt: skip
    assert board.main(arguments) == 0
    index = (tmp_path / "site/index.json").read_bytes()
    sections = json.loads(index)["sections"]
    assert [s["entries"][0]["badge"]["level"] for s in sections] == ["all", "all"]
    assert ["shifted by layout=3" in s["rules"] for s in sections].count(True) == 1
    stamps = [p.stat().st_mtime_ns for p in sorted((tmp_path / "work/entries").iterdir())]
    assert board.main(arguments) == 0
    assert (tmp_path / "site/index.json").read_bytes() == index
    assert stamps == [p.stat().st_mtime_ns for p in sorted((tmp_path / "work/entries").iterdir())]
