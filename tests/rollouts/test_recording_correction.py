"""Recording what the expert would do in the states that another policy comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording import content, small_spec

from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import SplitFolder
from calvin_eval.rollouts.datasets.audit import AuditSpec, audit_dataset
from calvin_eval.rollouts.datasets.checks import check_split
from calvin_eval.rollouts.recording.correction import CorrectedPolicy, Correction, Turns
from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import record
from calvin_eval.rollouts.recording.spec import RecordSpec
from calvin_eval.wrappers.policy import Request, Requirements

RULES = Correction(first=0.5, last=0.5, turn=10, takeover=60)


def spec(out: Path, **changes: Any) -> RecordSpec:
    defaults: dict[str, Any] = {
        "policy": "builtin:random",
        "noise": Disturbance(rate=0.0),
        "scenes": {"training": "D", "validation": "D"},
        "episodes": {"training": 3, "validation": 0},
        "length": 1,
        "correction": RULES,
    }
    return small_spec(out, **{**defaults, **changes})


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corrected") / "data"
    record(spec(out))
    return out


def frames(split: Path) -> list[dict[str, Any]]:
    folder = SplitFolder(split)
    return [folder.read(index) for index in folder.frames]


def ask(step: int, session: int = 0) -> Request:
    return Request(session=session, instruction="", position=0, step=step, obs={})


# Who acts when


def test_turns_are_drawn_and_the_expert_ends_the_task() -> None:
    turns = Turns(rules=RULES, beta=0.5, seed=(0,))
    acts = np.array([[turns.expert_acts(ask(s, i)) for s in range(100)] for i in range(40)])
    assert acts[:, 60:].all()
    assert (acts[:, :60].reshape(40, 6, 10).std(axis=2) == 0).all(), "a turn is one's alone"
    assert 0.4 < acts[:, :60].mean() < 0.6
    again = Turns(rules=RULES, beta=0.5, seed=(0,))
    assert [again.expert_acts(ask(s)) for s in range(60)] == acts[0, :60].tolist()


@pytest.mark.parametrize(("beta", "expected"), [(0.0, False), (1.0, True)])
def test_a_share_of_none_or_all(beta: float, expected: bool) -> None:
    turns = Turns(rules=RULES, beta=beta, seed=(0,))
    assert {turns.expert_acts(ask(step)) for step in range(60)} == {expected}


def test_the_share_goes_evenly_from_the_first_to_the_last() -> None:
    rules = Correction.parse("1:0.5", turn=5, takeover=10)
    assert [rules.beta(number, 3) for number in range(3)] == [1.0, 0.75, 0.5]
    assert Correction.parse("0.2", turn=5, takeover=10).beta(7, 9) == pytest.approx(0.2)
    assert rules.beta(0, 1) == 1.0


@pytest.mark.parametrize("beta", ["1.5", "half", "0.5:", "0.1:-1"])
def test_an_impossible_share_is_refused(beta: str) -> None:
    if beta == "0.5:":
        assert Correction.parse(beta, turn=1, takeover=0).last == 0.5
        return
    with pytest.raises(UsageError, match="--beta: expected"):
        Correction.parse(beta, turn=1, takeover=0)


def test_a_corrected_policy_is_not_disturbed_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected no --noise with --label"):
        spec(tmp_path, noise=Disturbance(rate=0.1))


# What the policy is asked


class Asked:
    """A policy with chunks of three that keeps what it was asked."""

    requirements = Requirements(every_step=True, actions=4)

    def __init__(self) -> None:
        self.resets = 0
        self.asked: list[Request] = []

    def reset(self, session: int, instruction: str) -> None:
        self.resets += 1

    def act(self, requests: Sequence[Request]) -> list[Any]:
        self.asked += requests
        return [np.arange(21.0).reshape(3, 7)]


class Says:
    """An expert of few words."""

    def __init__(self) -> None:
        self.followed: list[Any] = []

    def reset(self, session: int, instruction: str) -> None: ...

    def act(self, requests: Sequence[Request]) -> list[Any]:
        return [np.full((1, 7), float(requests[0].step))]

    def follow(self, session: int, action: Any) -> None:
        self.followed.append(action)


class Noted:
    """A tape that is told what the expert says."""

    def __init__(self) -> None:
        self.labels: list[tuple[float, bool]] = []
        self.executed = np.ones(7)

    def label(self, action: Any, *, by_expert: bool) -> None:
        self.labels.append((action[0], by_expert))


class Between:
    """Turns in which the expert acts from one step to another."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end

    def expert_acts(self, request: Request) -> bool:
        return self.first <= request.step < self.end


def test_the_policy_is_asked_as_in_an_evaluation_and_anew_after_the_expert() -> None:
    inner, says, noted = Asked(), Says(), Noted()
    parts: Any = (inner, says, Between(5, 8), noted)
    policy = CorrectedPolicy(*parts)
    policy.reset(0, "go")
    taken = [np.array(policy.act([ask(step)])[0][0]) for step in range(10)]
    assert [r.step for r in inner.asked] == [0, 3, 8]
    assert [len(r.frames) for r in inner.asked] == [0, 2, 0]
    assert [len(r.executed) for r in inner.asked] == [0, 3, 0]
    assert inner.asked[1].executed[-1].decision == (0, 0)
    assert inner.asked[1].executed[-1].row == 2
    assert inner.resets == 2
    assert [a[0] for a in taken] == [0, 7, 14, 0, 7, 5, 6, 7, 0, 7]
    assert noted.labels == [(float(s), 5 <= s < 8) for s in range(10)]
    assert len(says.followed) == 6, "after each of the policy's actions but the last"
    assert all(r.info is None and r.task is None for r in inner.asked)


# The data set


def test_frames_hold_what_was_said_what_was_done_and_by_whom(corrected: Path) -> None:
    found = frames(corrected / "training")
    acted = np.array([frame["expert_acted"] for frame in found])
    same = [np.array_equal(f["rel_actions"], f["executed_actions"]) for f in found]
    assert 0.2 < acted.mean() < 1
    assert all(np.array(same)[acted])
    assert np.mean(np.array(same)[~acted]) < 0.1
    assert (np.load(corrected / "training/expert_acted.npy") == acted).all()
    assert all(np.abs(frame["rel_actions"]).max() <= 1 for frame in found)
    settings = json.loads((corrected / "record.json").read_text(encoding="utf-8"))
    assert settings["correction"] == {"first": 0.5, "last": 0.5, "turn": 10, "takeover": 60}


def test_tasks_are_solved_in_spite_of_the_policy(corrected: Path) -> None:
    lines = (corrected / "training/episodes.jsonl").read_text(encoding="utf-8").splitlines()
    done = [subtask["success"] for line in lines for subtask in json.loads(line)["subtasks"]]
    assert sum(done) == 3


def test_played_back_what_was_executed_leads_to_the_same_states(corrected: Path) -> None:
    found = audit_dataset(corrected, AuditSpec(start="episode"))
    assert found.counts["confirmed"] == sum(found.counts.values()) == 3
    drift = [max(played.drift["robot_position"]) for _, _, played in found.stretches]
    assert max(drift) < 1e-5


def test_the_folder_is_sound(corrected: Path) -> None:
    _, faults = check_split(SplitFolder(corrected / "training"), 20)
    assert [fault for fault in faults if fault.level == "error"] == []


@pytest.mark.slow
@pytest.mark.processes
def test_any_number_of_processes_writes_the_same_files(corrected: Path, tmp_path: Path) -> None:
    record(spec(tmp_path / "data"), workers=2)
    assert content(tmp_path / "data") == content(corrected)


def test_another_correction_is_another_recording(corrected: Path) -> None:
    with pytest.raises(UsageError, match="correction"):
        record(spec(corrected, correction=Correction()))


@pytest.mark.needs("vla")
def test_training_takes_all_frames_or_those_in_which_the_expert_acted(corrected: Path) -> None:
    from calvin_eval.vla.data.annotations import acted_by_expert, read_language

    folder = corrected / "training"
    whole = read_language(folder)
    parts = acted_by_expert(whole, folder)
    acted = np.load(folder / "expert_acted.npy")
    inside = np.zeros(len(acted), bool)
    for part in parts:
        assert acted[part.start : part.end].all()
        inside[part.start : part.end] = True
    for segment in whole:
        span = slice(segment.start, segment.end)
        assert (inside[span] == acted[span]).all()
    np.save(corrected / "expert_acted.npy", acted[:3])
    with pytest.raises(UsageError, match="a mark for each frame"):
        acted_by_expert(whole, corrected)
