from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.errors import CheckpointError, PolicyError, UsageError
from calvin_eval.wrappers.builtin import RandomPolicy, ReplayPolicy, StillPolicy
from calvin_eval.wrappers.policy import Policy, Requirements
from calvin_eval.wrappers.testing import check_policy, fake_request

BLIND = Requirements()


def request(session: int = 0, position: int = 0, step: int = 0):
    return fake_request(BLIND, session, position, step)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    arrays = {}
    for chain, sub, steps in ((3, 0, 5), (3, 1, 2), (12, 0, 4), (12, 1, 0)):
        actions = draw.uniform(-1, 1, (steps, 7))
        actions[:, 6] = -1
        arrays[f"chain{chain:04d}_sub{sub}_actions"] = actions
        arrays[f"chain{chain:04d}_sub{sub}_robot_obs"] = draw.normal(size=15)
    path = tmp_path / "recorded.npz"
    np.savez(path, index="[]", **arrays)
    return path


class TestRandom:
    @given(
        seed=st.integers(0, 2**64),
        session=st.integers(0, 10_000),
        position=st.integers(0, 4),
        step=st.integers(0, 2000),
        hold=st.integers(1, 40),
    )
    def test_action_is_valid_and_a_function_of_its_arguments(
        self, seed, session, position, step, hold
    ):
        action = RandomPolicy(seed, hold).action(session, position, step)
        assert action.shape == (7,)
        assert action.dtype == np.float64
        assert (np.abs(action[:6]) <= 1).all()
        assert action[6] in (-1, 1)
        np.testing.assert_array_equal(
            action, RandomPolicy(seed, hold).action(session, position, step)
        )

    def test_stream_is_pinned(self):
        # A change here changes every published run of builtin:random.
        action = RandomPolicy(seed=7).action(session=3, position=1, step=40)
        words = np.random.PCG64([7, 3, 1, 1]).random_raw(8)
        expected = [2 * ((int(word) >> 11) / 2**53) - 1 for word in words[:6]]
        assert action[:6].tolist() == expected
        assert RandomPolicy(seed=7).action(3, 1, 48)[:6].tolist() == [-x for x in expected]

    @pytest.mark.parametrize("other", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 32)])
    def test_every_argument_matters(self, other):
        seed, session, position, step = other
        assert not np.array_equal(
            RandomPolicy(0).action(0, 0, 0), RandomPolicy(seed).action(session, position, step)
        )

    def test_motion_goes_out_and_comes_back(self):
        policy = RandomPolicy(seed=1, hold=16)
        motion = np.stack([policy.action(0, 0, step)[:6] for step in range(32 * 11)])
        path = np.cumsum(motion, axis=0)
        assert np.abs(path).max() <= 16
        assert np.abs(path).max() > 8
        np.testing.assert_allclose(path[31::32], 0, atol=1e-9)
        assert len(np.unique(motion[::32], axis=0)) == 11

    def test_gripper_is_drawn_for_each_way(self):
        policy = RandomPolicy(seed=2, hold=1)
        gripper = np.array([policy.action(0, 0, step)[6] for step in range(400)])
        out, back = gripper[::2], gripper[1::2]
        assert 0.3 < (out == back).mean() < 0.7

    def test_actions_are_uniform_and_both_gripper_commands_occur(self):
        policy = RandomPolicy(seed=5)
        actions = np.stack([policy.action(c, 0, s) for c in range(200) for s in (0, 16)])
        assert abs(actions[:, :6].mean()) < 0.05
        assert abs(actions[:, :6].std() - 1 / np.sqrt(3)) < 0.02
        assert 0.4 < (actions[:, 6] == 1).mean() < 0.6

    @pytest.mark.parametrize(
        "arguments", [{"seed": -1}, {"hold": 0}, {"seed": 1.5}, {"hold": True}]
    )
    def test_impossible_arguments_are_refused(self, arguments):
        with pytest.raises(UsageError, match="expected an integer"):
            RandomPolicy(**arguments)


class TestReplay:
    def test_returns_what_is_left_of_the_subtask(self, recording):
        recorded = np.load(recording)["chain0003_sub0_actions"]
        policy = ReplayPolicy(recording)
        whole, rest = policy.act([request(3), request(3, step=2)])
        np.testing.assert_array_equal(whole, recorded)
        np.testing.assert_array_equal(rest, recorded[2:])

    def test_chunked_replay_gives_the_same_actions(self, recording):
        recorded = np.load(recording)["chain0003_sub0_actions"]
        policy = ReplayPolicy(recording, chunk=2)
        chunks = [policy.act([request(3, step=step)])[0] for step in (0, 2, 4)]
        assert [len(chunk) for chunk in chunks] == [2, 2, 1]
        np.testing.assert_array_equal(np.concatenate(chunks), recorded)

    def test_holds_still_after_the_end(self, recording):
        policy = ReplayPolicy(recording)
        after, empty = policy.act([request(3, 1, step=2), request(12, 1)])
        assert after.tolist() == [[0, 0, 0, 0, 0, 0, -1]]
        assert empty.tolist() == [[0, 0, 0, 0, 0, 0, 1]]

    def test_answers_are_copies(self, recording):
        policy = ReplayPolicy(recording)
        policy.act([request(3)])[0][:] = 9
        assert policy.act([request(3)])[0].max() <= 1

    @pytest.mark.parametrize(
        ("session", "position", "message"),
        [
            (3, 2, "chain 3, subtask 2 .*holds subtasks 0, 1"),
            (4, 0, "chain 4.*2 chains from 3 to 12"),
        ],
    )
    def test_unrecorded_subtask_is_named(self, recording, session, position, message):
        with pytest.raises(PolicyError, match=message):
            ReplayPolicy(recording).act([request(session, position)])

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 6)), r"shape \(T, 7\), found float64 of shape \(3, 6\)"),
            (np.full((3, 7), np.nan), "finite"),
            (np.full((3, 7), "a"), "numbers"),
            (np.array([[None] * 7]), "cannot be read"),
        ],
    )
    def test_unusable_actions_are_refused(self, tmp_path, array, message):
        np.savez(tmp_path / "bad.npz", chain0000_sub0_actions=array)
        with pytest.raises(CheckpointError, match=message):
            ReplayPolicy(tmp_path / "bad.npz")

    def test_every_subtask_has_one_name(self, tmp_path):
        actions = np.zeros((3, 7))
        np.savez(
            tmp_path / "a.npz", chain0000_sub0_actions=actions, chain00000_sub0_actions=actions + 1
        )
        with pytest.raises(CheckpointError, match="chain 0, subtask 0 under two names"):
            ReplayPolicy(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", **{"chain\u0660\u0660\u0660\u0661_sub0_actions": actions})
        with pytest.raises(CheckpointError, match="holds no actions"):
            ReplayPolicy(tmp_path / "b.npz")

    def test_integers_become_floats(self, tmp_path):
        np.savez(tmp_path / "whole.npz", chain0000_sub0_actions=np.ones((2, 7), int))
        (chunk,) = ReplayPolicy(tmp_path / "whole.npz").act([request()])
        assert chunk.dtype == np.float64

    def test_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            ReplayPolicy(tmp_path / "none.npz")

    @pytest.mark.parametrize("chunk", [0, -1, 1.0, True])
    def test_impossible_chunk_is_refused(self, recording, chunk):
        with pytest.raises(UsageError, match="chunk >= 1"):
            ReplayPolicy(recording, chunk=chunk)


def test_still_commands_nothing():
    (chunk,) = StillPolicy().act([request()])
    assert chunk.tolist() == [[0, 0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("make", [RandomPolicy, StillPolicy])
def test_contract(make):
    policy = make()
    assert isinstance(policy, Policy)
    assert policy.requirements.cameras == ()
    check_policy(policy, tolerance=0.0)


def test_replay_contract(recording):
    check_policy(ReplayPolicy(recording), sessions=(3, 12), tolerance=0.0)
    check_policy(ReplayPolicy(recording, chunk=1), sessions=(3, 12), tolerance=0.0)
