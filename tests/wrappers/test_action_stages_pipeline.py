"""Whole pipelines: sessions keep apart, and a batch is a loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from calvin_eval.sim.actions import parse_action
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.stages import ACTION_STAGES, build_stages
from calvin_eval.wrappers.testing import check_policy, fake_request

PIPELINES: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {
    "robovlms": (
        7,
        {
            "split": {"use": "gripper", "input": "logit", "output": "zero_one"},
            "tcp_to_world": {},
            "ensemble": {"method": "first"},
            "mu_law": {},
            "unnormalize": {"low": -0.65, "high": 0.65, "gripper": "scaled"},
            "gripper": {"input": "zero_one"},
        },
    ),
    "averaged": (
        7,
        {
            "probability": {"use": "gripper", "input": "logit", "output": "probability"},
            "unnormalize": {"low": [-0.02] * 6, "high": [0.02] * 6},
            "ensemble": {"decay": 0.9},
            "execute": {"steps": 2},
            "state_relative": {"euler_wrap": True},
            "scale": {},
            "clip": {},
            "gripper": {"input": "probability"},
        },
    ),
    "vla-eval": (
        7,
        {
            "gripper": {"input": "signed"},
            "execute": {"steps": 3},
            "accumulate": {},
            "absolute": {},
        },
    ),
    "x-vla": (
        20,
        {
            "columns": {"take": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
            "gripper": {
                "input": "probability",
                "threshold": 0.8,
                "high": "close",
                "inclusive": True,
            },
            "orientation": {"source": "rotation_6d_interleaved", "target": "quaternion_xyzw"},
            "absolute": {},
        },
    ),
    "vla-adapter": (
        7,
        {"stagger": {"repeat": True}, "gripper": {"input": "zero_one", "inclusive": True}},
    ),
}


class Drawn:
    """A network of a given width: chunks are a function of session, subtask and step alone."""

    requirements = Requirements()

    def __init__(self, columns: int, length: int = 5) -> None:
        self.shape = (length, columns)

    def reset(self, session: int, instruction: str) -> None:
        pass

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        return [self._chunk(r) for r in requests]

    def _chunk(self, request: Request) -> Chunk:
        draw = np.random.default_rng([request.session, request.position, request.step])
        return draw.uniform(-1, 1, self.shape).astype(np.float32)


def pipeline(name: str) -> Pipeline:
    columns, settings = PIPELINES[name]
    actions = build_stages(settings, ACTION_STAGES, "policy.actions")
    return Pipeline(Drawn(columns), observe={}, actions=actions)


def run(policy: Pipeline, order: Sequence[Sequence[int]], subtasks: int = 2) -> dict[Any, Any]:
    """Actions by (session, subtask, decision), every element of `order` being one batch."""
    position: dict[int, int] = {}
    step: dict[int, int] = {}
    done: dict[int, int] = {}
    result: dict[Any, Any] = {}
    for batch in order:
        for session in batch:
            if done.get(session, 0) % 4 == 0:
                position[session] = position.get(session, -1) + 1
                step[session] = 0
                policy.reset(session, f"subtask {position[session]}")
        requests = [fake_request(Requirements(), s, position[s], step[s]) for s in batch]
        for session, chunk in zip(batch, policy.act(requests), strict=True):
            decision = done.get(session, 0)
            result[session, position[session], decision] = [parse_action(a) for a in chunk]
            step[session] += len(chunk)
            done[session] = decision + 1
    assert {p for _, p, _ in result} == set(range(subtasks))
    return result


def equal(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    for key, actions in one.items():
        assert len(actions) == len(other[key])
        for a, b in zip(actions, other[key], strict=True):
            assert (a.kind, a.gripper) == (b.kind, b.gripper)
            assert a.position.tobytes() == b.position.tobytes()
            assert a.orientation.tobytes() == b.orientation.tobytes()


@pytest.mark.parametrize("name", PIPELINES)
def test_sessions_interleaved_in_batches_equal_one_session_at_a_time(name: str) -> None:
    sessions, decisions = range(4), 8
    alone = run(pipeline(name), [[s] for s in sessions for _ in range(decisions)])
    together = run(pipeline(name), [list(sessions)] * decisions)
    draw = random.Random(0)
    left = [s for s in sessions for _ in range(decisions)]
    mixed = []
    while left:
        batch = draw.sample(sorted(set(left)), draw.randint(1, len(set(left))))
        for session in batch:
            left.remove(session)
        mixed.append(batch)
    equal(alone, together)
    equal(alone, run(pipeline(name), mixed))


def test_a_subtask_leaves_nothing_behind() -> None:
    """The first decision after a reset does not depend on what came before it."""
    for name in PIPELINES:
        policy = pipeline(name)
        [fresh] = _decide(policy, 0)
        _decide(policy, 3, reset=False)
        [again] = _decide(policy, 0)
        np.testing.assert_array_equal(_flat(fresh), _flat(again))


def _decide(policy: Pipeline, step: int, *, reset: bool = True) -> list[Chunk]:
    if reset:
        policy.reset(0, "go")
    return policy.act([fake_request(Requirements(), 0, 0, step)])


def _flat(chunk: Chunk) -> Any:
    parsed = [parse_action(action) for action in chunk]
    return [[*np.ravel(p.position), *np.ravel(p.orientation), p.gripper] for p in parsed]


@pytest.mark.parametrize("name", ["robovlms", "averaged", "vla-adapter"])
def test_pipelines_with_relative_actions_keep_the_contract_of_policies(name: str) -> None:
    check_policy(pipeline(name))
