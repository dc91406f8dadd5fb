"""A batch in which one session fails is asked again one by one; nothing may happen twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import Request, Requirements
from calvin_eval.wrappers.stages.base import ActionStage, Context, ObservationStage
from calvin_eval.wrappers.testing import fake_request

pytestmark = pytest.mark.processes

BAD = 1


def count(context: Context) -> int:
    context.memory["calls"] = context.memory.get("calls", 0) + 1
    return int(context.memory["calls"])


@dataclass(frozen=True)
class Seen(ObservationStage):
    fails: bool = False

    def __call__(self, frames: Sequence[Any], context: Context) -> Sequence[Any]:
        if self.fails and context.request.session == BAD:
            raise PolicyError("cannot look")
        return [{**frames[-1], "seen": count(context)}]


@dataclass(frozen=True)
class Done(ActionStage):
    fails: bool = False

    def __call__(self, actions: Any, context: Context) -> Any:
        if self.fails and context.request.session == BAD:
            raise PolicyError("cannot move")
        return np.append(actions, [[count(context)] * 2], axis=1)


class Counting:
    """Its actions say how often the session was seen and how often it was asked."""

    requirements = Requirements()

    def __init__(self, fails: bool = False) -> None:
        self.asked: dict[int, int] = {}
        self.fails = fails

    def reset(self, session: int, instruction: str) -> None:
        self.asked[session] = 0

    def act(self, requests: Sequence[Request]) -> list[Any]:
        if self.fails and any(request.session == BAD for request in requests):
            raise PolicyError("cannot decide")
        for request in requests:
            self.asked[request.session] += 1
        return [np.array([[*[0] * 3, r.obs["seen"], self.asked[r.session]]]) for r in requests]


@pytest.mark.parametrize("where", ["look", "decide", "move"])
def test_one_failing_session_leaves_the_others_as_they_are(where: str) -> None:
    pipeline = Pipeline(
        Counting(fails=where == "decide"),
        observe={"seen": Seen(fails=where == "look")},
        actions={"done": Done(fails=where == "move")},
    )
    for session in range(3):
        pipeline.reset(session, "x")
    for step in range(1, 4):
        requests = [fake_request(pipeline.requirements, session, 0, step) for session in range(3)]
        with pytest.raises(PolicyError, match=where):
            pipeline.act(requests)
        for request in (replace(request, attempt=1) for request in requests):
            if request.session == BAD:
                with pytest.raises(PolicyError, match=where):
                    pipeline.act([request])
            else:
                (chunk,) = pipeline.act([request])
                assert np.asarray(chunk)[0, 3:].tolist() == [step] * 4


def test_the_engine_asks_again_in_this_way() -> None:
    """The batcher counts the attempts, which is how the pipeline knows a repeated request."""
    batcher = Batcher(BatchRules(wait=0.0))
    sizes: list[int] = []

    class Slow(Counting):
        def act(self, requests: Sequence[Request]) -> list[Any]:
            sizes.append(len(requests))
            if len(sizes) == 1:
                wait_until(lambda: batcher._inbox.qsize() == 3, "the others wait for a batch")
            return super().act(requests)

    pipeline = Pipeline(Slow(), observe={"seen": Seen()}, actions={"done": Done(fails=True)})

    def ask(session: int) -> Any:
        request = fake_request(pipeline.requirements, session)
        return batcher.ask(pipeline, request, reset=True).chunk

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(ask, 9)
        wait_until(lambda: sizes, "the first is being answered")
        futures = [threads.submit(ask, session) for session in range(3)]
    assert first.result()[0, 3:].tolist() == [1] * 4
    assert sizes == [1, 3]  # nobody was asked twice
    for session, future in enumerate(futures):
        if session == BAD:
            with pytest.raises(RemotePolicyError, match="cannot move"):
                future.result()
        else:
            assert future.result()[0, 3:].tolist() == [1] * 4
    batcher.close()


def test_a_reset_forgets_a_request_that_failed() -> None:
    pipeline = Pipeline(Counting(), observe={"seen": Seen()}, actions={"done": Done(fails=True)})
    pipeline.reset(BAD, "x")
    request = fake_request(pipeline.requirements, BAD)
    with pytest.raises(PolicyError):
        pipeline.act([request])
    pipeline.reset(BAD, "y")
    pipeline.actions["done"] = Done()
    assert pipeline.act([request])[0][0, 3:].tolist() == [1] * 4  # type: ignore[call-overload]
