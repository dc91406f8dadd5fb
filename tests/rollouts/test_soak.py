"""A thousand chains of a policy with a history leave nothing behind."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from line_world import CHAIN, INSTRUCTIONS, Line, ReachOracle

from calvin_eval.config.compose import compose_config
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.rollouts.service import PolicyService, SocketPolicy
from calvin_eval.wrappers.loaders import LoadedPolicy, wrap
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements

pytestmark = pytest.mark.slow

SHORT = replace(CHAIN, tasks=("reach_1", "reach_2"))
SLACK = 8 * 2**20
"""Bytes that may be held between chains; the last window of one such chain has 1.2 MB."""


class Pictured(Line):
    """The line world with both cameras; every frame has memory of its own."""

    def observe(self, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()) -> dict[str, Any]:
        sides = {"static": 200, "gripper": 84}
        images = {
            f"rgb_{camera}": np.full((sides[camera], sides[camera], 3), self.x * 9, np.uint8)
            for camera in rgb
        }
        return {**self.get_state_obs(), "rgb_obs": images}


class Network(BasePolicy):
    """Steps forward by one; reads the windows that the stages of gr1 make."""

    requirements = Requirements(rgb=("static", "gripper"))

    def act(self, requests: Sequence[Request]) -> list[Any]:
        for request in requests:
            window = request.obs["rgb_obs"]["rgb_static"]
            assert window.shape[1:] == (3, 224, 224)
            assert len(window) == 1  # the chain decides once per subtask
        return [np.array([[1.0, 0, 0, 0, 0, 0, 2.5]]) for _ in requests]


def gr1() -> Pipeline:
    config = compose_config(["ckpt=builtin:still", "policy=gr1"])
    loaded = LoadedPolicy(policy=Network(), kind="test", description="", metadata={})
    found = wrap(loaded, config.policy.observe, config.policy.actions).policy
    assert isinstance(found, Pipeline)
    assert "history" in found.observe
    return found


def run(policy: BasePolicy, chains: range) -> None:
    runner = ChainRunner(Pictured(), ReachOracle(), policy, instructions=INSTRUCTIONS)  # type: ignore[arg-type]
    for number in chains:
        record = runner.run(replace(SHORT, id=number)).record
        assert (record.length, record.error) == (2, None)
        held = tracemalloc.get_traced_memory()[0]
        assert held < SLACK, f"{held / 1e6:.1f} MB after {number + 1} chains"


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_thousand_chains_in_one_process(traced: None) -> None:
    pipeline = gr1()
    run(pipeline, range(1000))
    assert pipeline._memories == pipeline._answers == {}


def test_hundreds_of_chains_over_the_socket_of_a_service(traced: None) -> None:
    pipeline = gr1()
    failures: list[BaseException] = []

    def work(chains: range) -> None:
        try:
            with closing(SocketPolicy(service.address, pipeline.requirements)) as policy:
                run(policy, chains)
        except BaseException as error:
            failures.append(error)

    with closing(PolicyService(pipeline, rules=BatchRules())) as service:
        workers = [threading.Thread(target=work, args=(range(i, 200, 3),)) for i in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures, failures[0]
        assert pipeline._memories == pipeline._answers == {}
        assert service._batcher._open == {}
