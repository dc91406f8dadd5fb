"""The parts of the policy contract that an object may lack."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from calvin_eval.wrappers.loaders import LoadedPolicy, wrap
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements, with_defaults
from calvin_eval.wrappers.testing import fake_request


class Small:
    """What the contract demands, and no more."""

    requirements = Requirements(rgb=("static",))
    note = "mine"

    def reset(self, session: int, instruction: str) -> None: ...

    def act(self, requests: Sequence[Request]) -> list[Any]:
        return [np.zeros((1, 7)) for _ in requests]


class Whole(Small):
    max_sessions = 2

    def __init__(self) -> None:
        self.ended: list[int] = []

    def end(self, session: int) -> None:
        self.ended.append(session)

    def report(self) -> dict[str, Any]:
        return {"ended": len(self.ended)}


class Otherwise(Small):
    """Uses the names for something else, as code from before they meant anything may do."""

    report = "a path"

    def end(self) -> None:
        raise AssertionError


class Own(BasePolicy):
    def act(self, requests: Sequence[Request]) -> list[Any]:
        return [np.zeros((1, 7)) for _ in requests]


def test_what_an_object_lacks_is_filled_in() -> None:
    policy = with_defaults(Small())
    policy.end(3)
    assert policy.report() is None
    assert policy.requirements == Requirements(rgb=("static",))
    assert policy.note == "mine"  # type: ignore[attr-defined]
    assert with_defaults(policy) is policy
    assert copy.copy(policy).note == "mine"  # type: ignore[attr-defined]


def test_what_an_object_has_is_used() -> None:
    policy = with_defaults(Whole())
    policy.end(3)
    assert policy.report() == {"ended": 1}
    assert policy.requirements == Requirements(rgb=("static",), max_sessions=2)
    assert with_defaults(policy) is policy


def test_other_uses_of_the_names_are_left_alone() -> None:
    policy = with_defaults(Otherwise())
    policy.end(3)
    assert policy.report() is None


def test_a_base_policy_is_taken_as_it_is_but_for_the_attribute_of_old() -> None:
    policy = Own()
    assert with_defaults(policy) is policy
    policy.max_sessions = 1  # type: ignore[attr-defined]
    assert with_defaults(policy).requirements.max_sessions == 1


def test_stages_pass_the_optional_parts_on() -> None:
    inner = Whole()
    loaded = LoadedPolicy(policy=with_defaults(inner), kind="x", description="", metadata={})
    policy = wrap(loaded, {}, {"execute": {"steps": 1}}).policy
    assert isinstance(policy, Pipeline)
    policy.reset(3, "x")
    policy.act([fake_request(policy.requirements, 3)])
    assert policy._memories
    policy.end(3)
    assert not policy._memories
    assert (inner.ended, policy.report()) == ([3], {"ended": 1})
    assert policy.requirements.max_sessions == 2


def test_the_limit_is_no_part_of_what_is_observed() -> None:
    """The header of a run has what is observed: an older one still agrees with it."""
    needs = Requirements(rgb=("static",), sizes={"static": (64, 64)}, max_sessions=1)
    everything = asdict(needs)
    assert everything.pop("max_sessions") == 1
    assert (everything.pop("actions"), everything.pop("matrices")) == (0, False)
    assert list(needs.observed().items()) == list(everything.items())
    assert replace(needs, actions=3).observed() == {**everything, "actions": 3}
