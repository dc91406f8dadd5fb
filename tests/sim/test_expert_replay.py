"""Whole solved chains on the built-in pack, to the last bit: needs nothing but this repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.replay import replay
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.symbolic import TASK_NAMES

FILE = Path(__file__).parents[1] / "golden" / "expert" / "builtin_D.npz"
RECORDED = np.load(FILE)
INDEX = json.loads(str(RECORDED["index"]))
CHAINS = [(chain, list(subtasks)) for chain, subtasks in groupby(INDEX, lambda entry: entry[0])]


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    made = make_env("D", render="none")
    yield made
    made.close()


def test_every_task_is_there() -> None:
    assert {task for _, _, task, _ in INDEX} == set(TASK_NAMES)
    assert FILE.stat().st_size < 300_000


@pytest.mark.parametrize(("chain", "subtasks"), CHAINS, ids=[str(chain) for chain, _ in CHAINS])
@pytest.mark.slow
def test_a_chain_ends_in_the_same_bits(env: Any, chain: int, subtasks: list[list[Any]]) -> None:
    asked = load_chains("official")[chain]
    assert [task for _, _, task, _ in subtasks] == list(asked.tasks)
    names = [f"chain{chain:04d}_sub{position}" for _, position, _, _ in subtasks]
    actions = [RECORDED[f"{name}_actions"] for name in names]
    for step in replay(env, asked, actions, OFFICIAL, TaskOracle()):
        _, position, task, steps = subtasks[step.position]
        assert (step.position, step.task, step.last) == (position, task, step.step == steps)
        assert step.action is None or np.abs(step.action).max() <= 1
        assert step.success == step.last, task
        if step.last:
            for part, value in step.state().items():
                assert np.array_equal(value, RECORDED[f"{names[position]}_{part}"]), task
