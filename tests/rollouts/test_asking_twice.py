"""A policy is asked twice: what it draws and what chains leave to each other shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calvin_eval
from calvin_eval.errors import PolicyError
from calvin_eval.results.header_sections import ReproducibilityFacts
from calvin_eval.results.official import NOT_REPRODUCIBLE
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.asking_twice import ask_twice
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.policy_errors import PolicyLostError
from calvin_eval.rollouts.service import PolicyService
from calvin_eval.rollouts.worker import PolicyLink
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.wrappers.policy import BasePolicy, Requirements

CHAINS = load_chains("official").chains[:3]
SENTENCES = load_instructions("pack", load_pack("builtin").instructions)


class Told(BasePolicy):
    """Answers by what a function makes of a request; remembers what happened."""

    def __init__(self, answer: Callable[[Any], Any], **needs: Any) -> None:
        self.requirements = Requirements(**needs)
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def reset(self, session: int, instruction: str) -> None:
        self.calls.append(("reset", session, instruction))

    def act(self, requests: Any) -> Any:
        self.calls += [("act", r.session, r.step, len(r.frames)) for r in requests]
        return [self.answer(request) for request in requests]

    def end(self, session: int) -> None:
        self.calls.append(("end", session))


def row(value: float) -> Any:
    return np.array([[value, 0, 0, 0, 0, 0, 1.0]])


def ask(policy: BasePolicy, chains: Any = CHAINS, seed: int | None = 0) -> ReproducibilityFacts:
    link = PolicyLink(requirements=policy.requirements, here=policy, seed=seed)
    return ask_twice(link, chains, SENTENCES, patience=60.0)


def test_it_is_asked_for_the_first_decisions_in_two_orders() -> None:
    policy = Told(lambda r: np.repeat(row(r.step), 2, axis=0), every_step=True)
    found = ask(policy)
    assert (found.reproducible, found.decisions) == (True, 6)
    begins = [call for call in policy.calls if call[0] == "reset"]
    ids = [CHAINS[n].id for n in (0, 1, 1, 0)]
    assert [call[1] for call in begins] == ids
    assert begins[0][2] == SENTENCES.text(CHAINS[0].tasks[0], CHAINS[0].id, 0)
    assert [call[2:] for call in policy.calls if call[0] == "act"] == [(0, 0), (2, 1), (4, 1)] * 4
    assert [call[1] for call in policy.calls if call[0] == "end"] == ids


def test_draws_from_seeded_generators_can_be_repeated() -> None:
    policy = Told(lambda r: row(np.random.rand()))
    assert ask(policy).reproducible is True
    assert ask(policy, seed=None).reproducible is False


def test_draws_from_elsewhere_cannot() -> None:
    own = np.random.default_rng()
    found = ask(Told(lambda r: row(own.random())))
    assert found.reproducible is False
    assert f"sessions {CHAINS[0].id}, {CHAINS[1].id}" in found.found


def test_what_one_chain_leaves_to_the_next_shows() -> None:
    history: list[int] = []

    def answer(request: Any) -> Any:
        history.append(request.session)
        return row(float(history[0] != request.session))

    assert ask(Told(answer), CHAINS[:1]).reproducible is True
    history.clear()
    assert ask(Told(answer)).reproducible is True, "the same first chain is remembered throughout"
    last: list[int] = [-1]

    def leaking(request: Any) -> Any:
        before, last[0] = last[0], request.session
        return row(float(before))

    assert ask(Told(leaking)).reproducible is False


@pytest.mark.parametrize(
    "answers",
    [
        ([(np.zeros(3), np.zeros(3), 1)], [(np.zeros(3), np.ones(3), 1)]),
        ([{"type": "a", "action": np.zeros(7)}], [{"type": "b", "action": np.zeros(7)}]),
        (np.zeros((1, 7)), np.zeros((1, 7), np.float32)),
        (np.zeros((1, 7)), np.array([[0, 0, -0.0, 0, 0, 0, 0]])),
    ],
)
def test_answers_of_every_form_are_compared(answers: tuple[Any, Any]) -> None:
    same, other = answers
    assert ask(Told(lambda r: same)).reproducible is True
    again: list[int] = []

    def answer(request: Any) -> Any:
        again.append(1)
        return other if len(again) == 8 else same

    assert ask(Told(answer)).reproducible is False


def test_a_policy_that_cannot_read_made_up_images_is_not_judged() -> None:
    def answer(request: Any) -> Any:
        raise PolicyError("no such sentence")

    policy = Told(answer)
    found = ask(policy)
    assert (found.reproducible, found.decisions) == (None, 0)
    assert "no such sentence" in found.found
    assert policy.calls[-1][0] == "end"


def test_a_policy_elsewhere_is_free_for_the_workers_afterwards() -> None:
    policy = Told(lambda r: row(0.5), max_sessions=1)
    with closing(PolicyService(policy, rules=BatchRules(seed=0))) as service:
        link = PolicyLink(requirements=policy.requirements, address=service.address)
        for _ in range(3):  # there is no second instance to be had
            assert ask_twice(link, CHAINS, SENTENCES, patience=60.0).reproducible is True


def test_a_policy_that_does_not_answer_is_lost() -> None:
    policy = Told(lambda r: time.sleep(3600.0))
    service = PolicyService(policy, rules=BatchRules())
    link = PolicyLink(requirements=policy.requirements, address=service.address)
    with pytest.raises(PolicyLostError, match=r"no answer in 0\.1 s"):
        ask_twice(link, CHAINS, SENTENCES, patience=0.1)


class Draws:
    requirements: Any = {}  # noqa: RUF012 - as a user's class has it

    def __init__(self) -> None:
        self.own = np.random.default_rng()

    def reset(self) -> None:
        pass

    def step(self, obs: Any, goal: str) -> Any:
        return row(self.own.random())


@pytest.mark.slow
@pytest.mark.processes
def test_header_and_verdict_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"num_chains": 2, "out": tmp_path / "run", "overrides": ["protocol.steps=2"]}
    run = calvin_eval.evaluate(Draws(), **settings)  # type: ignore[arg-type]
    assert NOT_REPRODUCIBLE in capsys.readouterr().err
    assert run.verdict.remarks == (NOT_REPRODUCIBLE,)
    facts = RunFolder.open(run.folder).header().reproducibility
    assert facts is not None
    assert (facts.reproducible, facts.decisions) == (False, 6)
    calvin_eval.evaluate(Draws(), resume=True, **settings)  # type: ignore[arg-type]
    assert RunFolder.open(run.folder).header().reproducibility == facts
