"""The recipe of a policy for all tasks: its stages, and that they go on where they stopped."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from docs_commands import ROOT

from calvin_eval import evaluate
from calvin_eval.cli.main import cli
from calvin_eval.sim.chains import load_chains

TINY = [
    *("--hours", "0.0001", "--workers", "1", "--assets", "builtin", "--tasks", "close_drawer"),
    *("--length", "1", "--piece", "1", "--validation", "1", "--rounds", "1", "--dev", "0"),
    *("--final", "0", "--batch", "4", "--least_steps", "2", "--evaluation", "protocol.steps=10"),
    *("--overrides", "vlm.sizes.image_size=24", "vlm.sizes.text_layers=1"),
    *("vlm.sizes.vision_layers=1", "train_dataset.cache=false"),
]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tools.reference_all")


class Killed(Exception):
    """The power fails."""


def maker(recipe: Any, work: Path, commands: list[list[str]], **plan: Any) -> Any:
    """A maker whose commands leave what the next stages read, and take a minute each."""

    class Pretending(recipe.Maker):  # type: ignore[misc]  # a tool is no typed module
        def _run(self, stage: str, words: Sequence[str]) -> None:
            commands.append(list(words))
            self.state.add_seconds(stage, 60.0)
            if "--out" in words:
                out = Path(words[words.index("--out") + 1])
                (out / "training").mkdir(parents=True, exist_ok=True)
                episode = {"frames": 100, "subtasks": [{"success": True}]}
                (out / "training/episodes.jsonl").write_text(json.dumps(episode) + "\n")
            else:
                out = Path(next(w for w in words if w.startswith("out=")).partition("=")[2])
                out.mkdir(exist_ok=True)
                (out / "metrics.csv").write_text("step,samples_per_second\n10,50.0\n")
                (out / "epoch=1-step=20.ckpt").touch()

        def _report(self) -> None:
            """Runs are only pretended."""

    return Pretending(work, importlib.import_module("tools.reference_state").Plan(**plan))


def test_stages_follow_one_another_until_the_time_is_spent(recipe: Any, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    made = maker(recipe, tmp_path, commands, hours=0.5, rounds=9, dev=5)
    made.make()
    kinds = [words[0] for words in commands]
    assert kinds[:6] == ["record"] * 6, "a fifth of half an hour, a minute each"
    stages = made.state.stages
    assert stages[:6] == ["profile", "train-0", "dev-0", "correct-1", "train-1", "dev-1"]
    assert stages[-1] == "final"
    assert 2 < sum(stage.startswith("train") for stage in stages) < 10
    assert made.left < 180, "the time is spent, but for less than a round"
    lists = [w for words in commands for w in words if w.startswith("protocol.chains=")]
    assert lists == ["protocol.chains=dev"] * (len(lists) - 1) + ["protocol.chains=official"]


def test_its_commands_are_understood(recipe: Any, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    maker(recipe, tmp_path, commands, hours=0.3, rounds=2).make()
    names = set()
    for words in commands:
        given = words if words[0] in cli.commands else ["run", *words]
        cli.commands[given[0]].make_context(given[0], given[1:])  # or it raises
        names.add(given[0])
    assert names == {"record", "train", "run"}


def test_a_round_learns_from_demonstrations_and_corrections(recipe: Any, tmp_path: Path) -> None:
    from calvin_eval.config.training import compose_training

    commands: list[list[str]] = []
    maker(recipe, tmp_path, commands, hours=0.5, rounds=2).make()
    last = [words for words in commands if words[0] == "train"][-1]
    (tmp_path / "round-1" / "vlm").mkdir()
    project = compose_training(last[2:]).project
    folders = [project["train_dataset"]["data_dir"], *(c["data_dir"] for c in project["cotrain"])]
    assert sum("expert-" in folder for folder in folders) == 6
    fixes = [str(tmp_path / f"fix-{number}/training") for number in (1, 2)]
    assert [folder for folder in folders if "fix-" in folder] == fixes
    assert project["weights"][-2:] == [0.25, 0.25], "as much as the demonstrations"
    assert project["model_load_path"] == str(tmp_path / "round-1/epoch=1-step=20.ckpt")


def test_broken_off_it_goes_on_where_it_was(recipe: Any, tmp_path: Path) -> None:
    whole: list[list[str]] = []
    maker(recipe, tmp_path / "whole", whole, hours=0.4, rounds=2).make()
    commands: list[list[str]] = []
    for _ in range(len(whole) + 1):
        made = maker(recipe, tmp_path / "work", commands, hours=0.4, rounds=2)
        run, begun = made._run, len(commands)

        def once(*given: Any, run: Any = run, begun: int = begun) -> None:
            if len(commands) > begun:
                raise Killed
            run(*given)

        made._run = once
        try:
            made.make()
        except Killed:
            continue
        break
    places = str(tmp_path / "work"), str(tmp_path / "whole")
    assert [[word.replace(*places) for word in words] for words in commands] == whole


def test_a_folder_of_another_plan_is_left_alone(recipe: Any, tmp_path: Path) -> None:
    maker(recipe, tmp_path, [], hours=1.0)
    maker(recipe, tmp_path, [], hours=2.0, workers=1)
    with pytest.raises(SystemExit, match="was begun with --seed 0"):
        maker(recipe, tmp_path, [], seed=1)


def test_the_page_has_scores_with_intervals_tasks_and_places(recipe: Any, tmp_path: Path) -> None:
    state = importlib.import_module("tools.reference_state")
    plan = state.Plan(hours=1.0)
    done = state.State.open(tmp_path, plan)
    evaluate(
        "builtin:still", num_chains=2, workers=0, out=str(tmp_path / "dev-0"), quiet=True,
        overrides=["protocol.steps=2"],
    )  # fmt: skip
    done.add_seconds("dev-0", 90.0)
    done.finish("dev-0")
    state.write_report(tmp_path, plan, done)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "1.5 of 60 minutes spent" in page
    assert "| dev-0 | 1.5 | average length **0.000** (0.00 to " in page
    assert "| 1 | 0 of 2 |" in page
    assert page.count("| `") == len(
        {chain.tasks[0] for chain in load_chains("official").chains[:2]}
    )


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.needs("vla")
def test_all_of_it_on_one_task(tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "tools.reference_all", "--work", str(work), *TINY]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = (work / "report.md").read_text(encoding="utf-8")
    for stage in ("record", "profile", "train-0"):
        assert f"| {stage} |" in report
    assert "20 steps" in report
    assert "1 episodes" in report
