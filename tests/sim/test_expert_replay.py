"""Whole solved chains on the built-in pack, to the last bit: needs nothing but this repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
def test_a_chain_ends_in_the_same_bits(env: Any, chain: int, subtasks: list[list[Any]]) -> None:
    asked = load_chains("official")[chain]
    assert [task for _, _, task, _ in subtasks] == list(asked.tasks)
    oracle = TaskOracle()
    env.start(asked.robot_obs, asked.scene_obs)
    for _, position, task, steps in subtasks:
        name = f"chain{chain:04d}_sub{position}"
        start, done = env.get_info(), []
        for action in RECORDED[f"{name}_actions"]:
            assert np.abs(action).max() <= 1
            env.advance(action)
            done.append(oracle.achieved(start, env.get_info(), (task,)))
        state = env.get_state_obs()
        assert np.array_equal(state["robot_obs"], RECORDED[f"{name}_robot_obs"]), task
        assert np.array_equal(state["scene_obs"], RECORDED[f"{name}_scene_obs"]), task
        assert [bool(x) for x in done] == [False] * (steps - 1) + [True], task
