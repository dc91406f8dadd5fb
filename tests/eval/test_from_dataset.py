"""Evaluation of single tasks from a data set's own states: `--from-dataset`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording import small_spec

from calvin_eval.cli.main import main
from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import SplitFolder
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.recording.labels import ANNOTATIONS, save_plain
from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import record
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.rollouts.verify.verify import verify_run
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.dataset_chains import require_scene
from calvin_eval.sim.instructions import load_instructions

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training in scenes A and D, validation in D; one episode each, of two tasks."""
    out = tmp_path_factory.mktemp("states") / "data"
    episodes = {"training": 2, "validation": 1}
    record(small_spec(out, episodes=episodes, noise=Disturbance(rate=0.0)))
    return out


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    """A copy of the validation split to be spoilt."""
    return Path(shutil.copytree(data / "validation", tmp_path / "mine"))


def run(data: Path, out: Path, *arguments: str) -> int:
    command = ["--from-dataset", str(data), "--workers", "0", "--quiet", "--out", str(out)]
    return main([*command, *arguments])


def test_a_chain_is_an_annotation_with_its_state_and_sentence(data: Path) -> None:
    split = SplitFolder(data / "training")
    annotations = split.annotations or ()
    chains = load_chains(data / "training")
    sentences = load_instructions(data / "training", {})
    assert len(chains) == len(annotations) >= 3
    assert {chain.scene for chain in chains} == {"A", "D"}
    for chain, annotation in zip(chains, annotations, strict=True):
        frame = split.read(annotation.first)
        assert chain.given
        assert chain.tasks == (annotation.task,)
        assert sentences.text(annotation.task, chain.id, 0) == annotation.text
        for name in ("robot_obs", "scene_obs"):
            assert np.array_equal(getattr(chain, name), frame[name])
    assert load_chains(data).sha256 == load_chains(data / "validation").sha256 != chains.sha256


def test_a_run_is_resumed_and_verified_like_any_other(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "run"
    assert run(data, out, "--ckpt", "builtin:expert") == 0
    assert "Hash of the chain list: expected 45250061baf5" in capsys.readouterr().out
    folder = RunFolder.open(out)
    records = folder.records()
    annotations = SplitFolder(data / "validation").annotations or ()
    assert [r.tasks for r in records] == [(a.task,) for a in annotations]
    assert [r.subtasks[0].instruction for r in records] == [a.text for a in annotations]
    assert all(r.subtasks[0].success for r in records)
    header = folder.header()
    assert header.chains.list == header.instructions.name == "data"
    assert header.chains.sha256 == load_chains(data).sha256
    assert verify_run(folder).status == "verified"  # the records hold the start states
    named = Sources(chains=str(data), instructions=str(data))
    result = verify_run(folder, sources=named)
    assert (result.status, len(result.chains)) == ("verified", len(annotations))
    assert not [note for note in result.notes if "chain list" in note or "instructions" in note]
    with pytest.raises(UsageError, match="expected the chain list"):
        verify_run(folder, sources=Sources(chains=str(data / "training")))

    journal = out / "chains.jsonl"
    whole = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(whole[:-1]), encoding="utf-8")
    assert run(data, out, "--ckpt", "builtin:expert", "--resume") == 0
    again = RunFolder.open(out).records()
    assert [r.subtasks[0].state_hash for r in again] == [r.subtasks[0].state_hash for r in records]


def test_other_sentences_and_other_rules_may_be_chosen(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--ckpt", "builtin:still", "protocol.steps=2", "--chains", "0"]
    assert run(data / "validation", out, *arguments, "protocol.instructions=pack") == 0
    header = RunFolder.open(out).header()
    assert (header.chains.list, header.instructions.name) == ("validation", "pack")


def test_the_scene_must_be_the_runs(data: Path, tmp_path: Path, capsys: Any) -> None:
    chains = load_chains(data / "training")
    other = [chain.id for chain in chains if chain.scene == "A"]
    own = [chain.id for chain in chains if chain.scene == "D"]
    arguments = ["--ckpt", "builtin:still", "protocol.steps=2"]
    assert run(data / "training", tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err
    assert f"chain {other[0]} was recorded in scene A" in said
    assert f"A: {other[0]}-{other[-1]}, D: {own[0]}-{own[-1]}" in said
    assert run(data / "training", tmp_path / "run", *arguments, "--chains", str(own[0])) == 0
    require_scene(load_chains("official").chains[:2], "B")  # nobody says where these are from


def relabel(split: Path, tasks: list[str]) -> None:
    found = SplitFolder(split).annotations or ()
    language = {"ann": [a.text for a in found], "task": tasks, "emb": np.zeros((0, 1, 0))}
    spans = [(a.first, a.last) for a in found]
    save_plain(split / ANNOTATIONS, {"language": language, "info": {"indx": spans}})


def without_state(split: Path) -> None:
    first = next(iter(SplitFolder(split).annotations or ()))
    np.savez(split / f"episode_{first.first:07d}.npz", robot_obs=np.zeros(15))


def with_nan(split: Path) -> None:
    first = next(iter(SplitFolder(split).annotations or ()))
    path = split / f"episode_{first.first:07d}.npz"
    np.savez(path, robot_obs=np.full(15, np.nan), scene_obs=np.zeros(24))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda split: relabel(split, ["juggle"] * 2), "a task of CALVIN's 34, found 'juggle'"),
        (without_state, "no array scene_obs, only robot_obs; a start state is needed"),
        (with_nan, "robot_obs to be a list of 15 numbers"),
        (lambda split: shutil.rmtree(split / "lang_annotations"), "found no annotations"),
    ],
    ids=["task", "state", "NaN", "annotations"],
)
def test_what_cannot_be_started_from_says_why(
    spoilt: Path, tmp_path: Path, capsys: Any, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(spoilt)
    assert run(spoilt, tmp_path / "run", "--ckpt", "builtin:still") == 2
    assert told in capsys.readouterr().err


def test_one_source_of_chains_is_enough(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(data, tmp_path / "run", "--ckpt", "builtin:still", "protocol.chains=dev") == 2
    assert "found both" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", tmp_path / "run", "--ckpt", "builtin:still") == 2
    assert "to name a data set's folder" in capsys.readouterr().err
    assert main(["--from-dataset", str(data), "--ckpt", "builtin:still", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert f"chains: {data}" in shown
    assert json.dumps(str(data)).strip('"') in shown.partition("instructions:")[2]
