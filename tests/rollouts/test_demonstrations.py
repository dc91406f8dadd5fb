"""Recorded actions, simulated again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from demonstrating import STEPS, recorded

from calvin_eval.errors import UsageError
from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.demonstrations import replayed
from calvin_eval.sim import make_env
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack

pytestmark = pytest.mark.processes

RECORDING = {(motion.chain, motion.position): motion.actions for motion in recorded()}


@pytest.fixture
def shown() -> Iterator[Any]:
    """Makes demonstrations of a recording, in a simulator that draws."""
    env = make_env("D", render="tiny", cameras=("gripper",))
    sentences = load_instructions("pack", load_pack("builtin").instructions)

    def make(recording: Any = RECORDING, count: int = 99) -> Any:
        return replayed(env, recording, load_chains("official"), sentences, OFFICIAL, count)

    yield make
    env.close()


def test_every_state_comes_back_to_the_last_bit(shown: Any) -> None:
    for demonstration, motion in zip(shown(), recorded(), strict=True):
        states = [demonstration.observe(step)["robot_obs"] for step in range(STEPS)]
        assert np.array_equal(states, motion.states)
        assert (demonstration.session, demonstration.position) == (motion.chain, motion.position)
        assert demonstration.instruction


def test_what_nobody_looks_at_is_simulated_all_the_same(shown: Any) -> None:
    firsts = [demonstration.observe(0)["robot_obs"] for demonstration in shown()]
    assert np.array_equal(firsts, [motion.states[0] for motion in recorded()])


def test_only_what_is_asked_for_is_drawn(shown: Any) -> None:
    demonstration = next(shown())
    assert demonstration.observe(0)["rgb_obs"] == {}
    image = demonstration.observe(1, rgb=("gripper",))["rgb_obs"]["rgb_gripper"]
    assert image.shape == (84, 84, 3)


def test_looking_back_is_refused(shown: Any) -> None:
    demonstration = next(shown())
    demonstration.observe(5)
    with pytest.raises(ValueError, match="expected step 5 or a later one, found 4"):
        demonstration.observe(4)


def test_so_many_and_no_more(shown: Any) -> None:
    assert [(d.session, d.position) for d in shown(count=4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_a_chain_of_another_list_is_refused(shown: Any) -> None:
    with pytest.raises(UsageError, match="found chain 1000"):
        list(shown({(1000, 0): recorded()[0].actions}))
