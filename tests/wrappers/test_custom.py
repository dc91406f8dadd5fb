from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.wrappers.custom import UPSTREAM, CustomModelPolicy, read_requirements
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.returned import to_chunk
from calvin_eval.wrappers.testing import check_policy, fake_request

ACTION = np.array([0.1, -0.2, 0.3, 0.0, 0.5, -0.6, 1.0])


class Model:
    def __init__(self, output=ACTION) -> None:
        self.output = output
        self.calls: list = []

    def reset(self) -> None:
        self.calls.append("reset")

    def step(self, obs, goal):
        self.calls.append((sorted(obs), goal))
        return self.output


def adapted(output=ACTION) -> CustomModelPolicy:
    return CustomModelPolicy(lambda: Model(output), "m.py:Model")


def test_model_gets_upstreams_calls():
    policy = adapted()
    policy.reset(5, "ignored")
    asked = fake_request(policy.requirements, 5)
    (chunk,) = policy.act([asked])
    assert policy.model.calls == [
        "reset",
        (["depth_obs", "rgb_obs", "robot_obs", "scene_obs"], asked.instruction),
    ]
    np.testing.assert_array_equal(chunk, ACTION[None])
    assert policy.requirements == UPSTREAM
    assert set(asked.obs["rgb_obs"]) == {"rgb_static", "rgb_gripper"}
    assert set(asked.obs["depth_obs"]) == {"depth_static", "depth_gripper"}


def test_contract():
    check_policy(adapted())


def test_model_may_add_to_its_observation():
    class Adder(Model):
        def step(self, obs, goal):
            obs["rgb_obs"]["extra"] = obs["extra"] = 1
            return self.output

    policy = CustomModelPolicy(Adder, "m")
    check_policy(policy)


def test_interleaved_sessions_are_refused():
    policy = adapted()
    with pytest.raises(PolicyError, match="chain 1 asked for an action before its reset"):
        policy.act([fake_request(UPSTREAM, 1)])
    policy.reset(1, "a")
    policy.act([fake_request(UPSTREAM, 1)])
    policy.reset(2, "b")
    policy.act([fake_request(UPSTREAM, 2)])
    with pytest.raises(PolicyError, match=r"chain 1 .* last reset for chain 2"):
        policy.act([fake_request(UPSTREAM, 1)])


@pytest.mark.parametrize("count", [0, 2])
def test_batches_are_refused(count):
    policy = adapted()
    policy.reset(0, "a")
    with pytest.raises(PolicyError, match="one chain at a time"):
        policy.act([fake_request(UPSTREAM, session) for session in range(count)])


@pytest.mark.parametrize("missing", ["reset", "step"])
def test_incomplete_models_are_refused(missing):
    body = {"reset": lambda self: None, "step": lambda self, obs, goal: ACTION}
    del body[missing]
    with pytest.raises(CheckpointError, match=rf"Half without {missing}"):
        CustomModelPolicy(type("Half", (), body), "m.py:Half")


class TestRequirements:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({}, Requirements()),
            ({"rgb": ["static"]}, Requirements(rgb=("static",))),
            ({"depth": ("gripper",), "every_step": False}, Requirements(depth=("gripper",))),
            (Requirements(rgb=("gripper",)), Requirements(rgb=("gripper",))),
        ],
    )
    def test_a_class_may_narrow_them(self, value, expected):
        model = type("Narrow", (Model,), {"requirements": value})
        found = CustomModelPolicy(model, "m").requirements
        assert found == replace(expected, max_sessions=1)

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            ({"rbg": []}, UnknownNameError, "'rbg'.*Did you mean 'rgb'"),
            ({"rgb": "static"}, CheckpointError, "list cameras"),
            ({"rgb": [1]}, CheckpointError, "list cameras"),
            ({"rgb": 3}, CheckpointError, "list cameras"),
            ({"every_step": 1}, CheckpointError, "true or false"),
            ("static", CheckpointError, "found str"),
        ],
    )
    def test_mistakes_are_explained(self, value, error, message):
        with pytest.raises(error, match=message):
            read_requirements(value, "m")

    @pytest.mark.parametrize("asked", ["privileged", "every_step"])
    def test_what_step_has_no_place_for_needs_the_other_interface(self, asked):
        model = type("Spy", (Model,), {"requirements": {asked: True}})
        with pytest.raises(CheckpointError, match=f"requirements.{asked} needs act"):
            CustomModelPolicy(model, "m")


class TestOutputs:
    @pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1, 7)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_single_actions_keep_values_and_type(self, shape, dtype):
        chunk = to_chunk(ACTION.astype(dtype).reshape(shape), "m")
        assert chunk.shape == (1, 7)
        assert chunk.dtype == dtype
        np.testing.assert_array_equal(chunk[0], ACTION.astype(dtype))

    @pytest.mark.parametrize("shape", [(4, 7), (1, 4, 7)])
    def test_chunks(self, shape):
        values = np.arange(28.0).reshape(shape)
        np.testing.assert_array_equal(to_chunk(values, "m"), values.reshape(4, 7))

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (torch.float16, np.float16),
            (torch.float32, np.float32),
            (torch.float64, np.float64),
            (torch.bfloat16, np.float32),
        ],
    )
    def test_tensors_with_gradients_become_arrays(self, dtype, expected):
        tensor = torch.ones(1, 7, dtype=dtype, requires_grad=True)
        chunk = to_chunk(tensor, "m")
        assert isinstance(chunk, np.ndarray)
        assert chunk.dtype == expected

    def test_lists_of_numbers_and_of_tensors(self):
        assert to_chunk([0, 0, 0, 0, 0, 0, -1], "m").tolist() == [[0, 0, 0, 0, 0, 0, -1]]
        assert to_chunk([torch.zeros(7), torch.ones(7)], "m").shape == (2, 7)
        assert to_chunk([torch.tensor(0.5)] * 7, "m").tolist() == [[0.5] * 7]

    def test_gripper_is_left_alone(self):
        assert to_chunk(np.full(7, 0.3), "m")[0, 6] == 0.3

    def test_chunk_does_not_share_the_models_buffer(self):
        buffer = np.zeros(7)
        chunk = to_chunk(buffer, "m")
        buffer[:] = 1
        assert not chunk.any()
        tensor = torch.zeros(7)
        chunk = to_chunk(tensor, "m")
        tensor += 1
        assert not chunk.any()

    def test_absolute_tuples_and_dicts_pass_unchanged(self):
        absolute = (np.zeros(3), np.zeros(4), 1)
        named = {"type": "joint_rel", "action": np.zeros(8)}
        assert to_chunk(absolute, "m")[0] is absolute
        assert to_chunk(named, "m")[0] is named
        both = to_chunk([absolute, named], "m")
        assert both[0] is absolute
        assert both[1] is named

    def test_tensors_inside_tuples_and_dicts_become_arrays(self):
        (absolute,) = to_chunk((torch.zeros(3), torch.zeros(3), torch.tensor(1.0)), "m")
        assert [type(part) for part in absolute] == [np.ndarray] * 3
        (named,) = to_chunk({"type": "cartesian_rel", "action": torch.zeros(7)}, "m")
        assert type(named["action"]) is np.ndarray

    @pytest.mark.parametrize(
        "output",
        [None, "left", np.zeros(6), np.zeros((0, 7)), np.zeros((2, 1, 7)), [[1, 2], [3]], 1.0, []],
    )
    def test_everything_else_is_explained(self, output):
        with pytest.raises(
            PolicyError, match=r"m\.py:Model: expected step\(\) to return an action"
        ):
            to_chunk(output, "m.py:Model")

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 9), max_size=4))
    def test_any_shape_is_a_chunk_or_a_policy_error(self, shape):
        try:
            chunk = to_chunk(np.zeros(shape), "m")
        except PolicyError:
            return
        assert chunk.shape[1:] == (7,)
        assert chunk.size == np.prod(shape)
        assert len(chunk) >= 1
