"""Policies draw from streams of their own, whatever is drawn before and beside them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from calvin_eval.rollouts import generators
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.rollouts.generators import Generators, seeded
from calvin_eval.rollouts.here import PolicyHere
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements
from calvin_eval.wrappers.testing import fake_request


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.fixture(autouse=True)
def callers_own() -> Iterator[None]:
    """The generators of the tests themselves are left as they were found."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    yield
    assert draw() == expected


def streams(order: list[tuple[int, int]], seed: int = 0) -> dict[tuple[int, int], list[object]]:
    """What is drawn when subtasks of sessions are worked at in some order."""
    found: dict[tuple[int, int], list[object]] = {}
    given = Generators(seed)
    for session, position in order:
        with given.of(session, position):
            found.setdefault((session, position), []).append(draw())
    for session in {session for session, _ in order}:
        given.forget(session)
    return found


A, B, A1 = (3, 0), (17, 0), (3, 1)


def test_a_stream_depends_on_seed_session_and_position_alone() -> None:
    apart = {**streams([A, A, A1, A1]), **streams([B, B])}
    assert streams([B, A, A, B, A1, A1]) == apart
    values = [value for drawn in apart.values() for value in drawn]
    assert len(set(values)) == 6
    assert streams([A], seed=1) != streams([A])


def test_a_fresh_stream_begins_anew() -> None:
    given = Generators(0)
    drawn = []
    for fresh in (True, False, True):
        with given.of(3, 0, fresh=fresh):
            drawn.append(draw())
    given.forget(3)
    assert drawn[2] == drawn[0] != drawn[1]


def test_torch_that_is_imported_late_is_seeded_then(monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = streams([A])[A]
    given = Generators(0)
    real = generators._torch
    monkeypatch.setattr(generators, "_torch", lambda: None)
    with given.of(*A):
        pass
    torch.manual_seed(5)
    monkeypatch.setattr(generators, "_torch", real)
    with given.of(*A):
        assert draw() == expected
    given.forget(3)
    torch.manual_seed(1)


def test_without_a_seed_nothing_is_touched() -> None:
    given = Generators(None)
    with given.of(3, 0), given.together([fake_request(Requirements(), s) for s in (0, 1)]):
        first = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert draw() == first
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_a_constructor_draws_from_the_seed() -> None:
    drawn = []
    for seed in (4, 4, 5):
        with seeded(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2]


class Drawing(BasePolicy):
    """Draws at its resets and for its actions."""

    requirements = Requirements()

    def __init__(self) -> None:
        self.start: dict[int, tuple[float, ...]] = {}

    def reset(self, session: int, instruction: str) -> None:
        self.start[session] = draw()

    def act(self, requests: object) -> list[np.ndarray]:
        return [
            np.array([[*self.start[r.session], *draw(), 1.0]])
            for r in requests  # type: ignore[attr-defined]
        ]


def asked(session: int, step: int) -> Request:
    return fake_request(Requirements(), session, step=step)


def by_batcher(order: list[tuple[int, int]]) -> dict[tuple[int, int], list[float]]:
    policy = Drawing()
    found = {}
    with closing(Batcher(BatchRules(wait=0.0, seed=0))) as batcher:
        for session, step in order:
            answer = batcher.ask(policy, asked(session, step), reset=step == 0)
            found[session, step] = np.asarray(answer.chunk).tolist()
        for session in {session for session, _ in order}:
            batcher.end(policy, session)
    return found


def by_itself(order: list[tuple[int, int]]) -> dict[tuple[int, int], list[float]]:
    policy = PolicyHere(Drawing(), seed=0)
    found = {}
    for session, step in order:
        if step == 0:
            policy.reset(session, "go")
        (chunk,) = policy.act([asked(session, step)])
        found[session, step] = np.asarray(chunk).tolist()
    for session in {session for session, _ in order}:
        policy.end(session)
    return found


@pytest.mark.parametrize("ask", [by_batcher, by_itself])
def test_whoever_asks_a_policy_gets_the_same(
    ask: Callable[[list[tuple[int, int]]], dict[tuple[int, int], list[float]]],
) -> None:
    one_by_one = [(0, 0), (0, 1), (5, 0), (5, 1)]
    expected = by_batcher(one_by_one)
    assert ask(one_by_one) == expected
    assert ask([(5, 0), (0, 0), (0, 1), (5, 1)]) == expected
    assert len({tuple(chunk[0]) for chunk in expected.values()}) == 4  # type: ignore[arg-type]


def test_a_batch_has_a_stream_of_what_is_in_it() -> None:
    def together(sessions: tuple[int, ...]) -> tuple[float, ...]:
        given = Generators(0)
        for session in sessions:
            with given.of(session, 0, fresh=True):
                draw()
        with given.together([asked(session, 1) for session in sessions]):
            found = draw()
        for session in sessions:
            given.forget(session)
        return found

    assert together((0, 1)) == together((0, 1)) != together((0, 2))


def test_only_one_thread_draws_at_a_time() -> None:
    """A second instance may be constructed while the first one decides."""
    (expected,) = streams([A])[A]
    given = Generators(0)
    constructed: list[object] = []

    def construct() -> None:
        with seeded(0):
            constructed.append(draw())

    other = threading.Thread(target=construct)
    with given.of(*A):
        other.start()
        assert draw() == expected
        assert not constructed
    other.join()
    given.forget(3)


def test_a_request_of_a_retried_batch_is_drawn_for_alone() -> None:
    request = replace(asked(3, 0), attempt=1)
    given = Generators(0)
    with given.together([request]):
        assert [draw()] == streams([(3, request.position)])[3, request.position]
    given.forget(3)


def test_a_stream_that_nobody_drew_from_is_kept_as_its_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []
    whole = np.random.get_state

    def counted(legacy: bool = True) -> Any:
        asked.append(legacy)
        return whole(legacy=legacy)

    monkeypatch.setattr(np.random, "get_state", counted)
    streams = Generators(0)
    alone = Generators(0)
    with alone.of(1, 0):
        expected = np.random.normal(size=3).tolist()
    alone.forget(1)
    asked.clear()
    with streams.of(1, 0):
        pass
    for session in (2, 1, 2):
        with streams.of(session, 0):
            pass
    assert len(asked) == 1  # what was before the first stream
    found = []
    for _ in range(3):  # one number at a time: every other one comes from the reserve
        with streams.of(1, 0):
            found.append(float(np.random.normal()))
        with streams.of(2, 0):
            pass
    assert found == expected
    assert len(asked) == 1 + 3
    for session in (1, 2):
        streams.forget(session)


def test_another_bit_generator_of_numpys_is_kept_whole() -> None:
    numpys: Any = np.random  # not all that it has is in its stubs
    streams = Generators(0)
    before = numpys.get_bit_generator()
    try:
        with streams.of(1, 0):
            numpys.set_bit_generator(np.random.MT19937(5))
            first = np.random.random(2).tolist()
        with streams.of(2, 0):
            np.random.random()
        with streams.of(1, 0):
            found = [*first, *np.random.random(2).tolist()]
        assert found == np.random.RandomState(np.random.MT19937(5)).random(4).tolist()
    finally:
        numpys.set_bit_generator(before)
        for session in (1, 2):
            streams.forget(session)
