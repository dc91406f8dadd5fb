"""Units, limits, grippers and chunks, one stage at a time."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from action_contexts import context_at
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.stages import ACTION_STAGES, build_stages
from calvin_eval.wrappers.stages.chunks import Execute
from calvin_eval.wrappers.stages.companding import MuLaw, compress, expand
from calvin_eval.wrappers.stages.gripper import Gripper, sigmoid
from calvin_eval.wrappers.stages.normalize import (
    Unnormalize,
    normalize,
    standardize,
    unnormalize,
    unstandardize,
)
from calvin_eval.wrappers.stages.scale import Cast, Clip, Columns, Scale

CONTEXT = context_at()
UNIT = hnp.arrays(np.float64, (3, 7), elements=st.floats(-1, 1))
MINIMAL: dict[str, dict[str, Any]] = {
    "cast": {"dtype": "float16"},
    "columns": {"take": [0, 1, 2, 3, 4, 5, 6]},
    "execute": {"steps": 1},
    "gripper": {"input": "logit"},
    "orientation": {"source": "axis_angle"},
    "unnormalize": {"low": [-1] * 6, "high": [1, 1, 1, 2, 2, 2.5]},
}
"""Options without which a stage cannot be."""


def chunk(*rows: float, dtype: Any = np.float32) -> NDArray[Any]:
    """Actions (k, 7) that are zero but for their gripper."""
    result = np.zeros((len(rows), 7), dtype)
    result[:, -1] = rows
    return result


@pytest.mark.parametrize("name", sorted(ACTION_STAGES))
def test_every_stage_comes_from_plain_options_and_goes_back_to_json(name: str) -> None:
    options = MINIMAL.get(name, {})
    stage = build_stages({"x": {"use": name, **options}}, ACTION_STAGES, "here")["x"]
    stored = json.loads(json.dumps(asdict(stage)))
    assert build_stages({name: stored}, ACTION_STAGES, "here")[name] == stage
    assert {key: stored[key] for key in options} == options


@pytest.mark.parametrize("name", sorted(ACTION_STAGES))
def test_no_stage_changes_its_input_or_needs_to(name: str) -> None:
    stage = build_stages({name: MINIMAL.get(name, {})}, ACTION_STAGES, "here")[name]
    actions = np.random.default_rng(0).uniform(-1, 1, (9, 7)).astype(np.float32)
    actions.flags.writeable = False
    before = actions.copy()
    stage(actions, context_at())
    np.testing.assert_array_equal(actions, before)


@pytest.mark.parametrize("name", sorted(set(ACTION_STAGES) - {"execute"}))
@pytest.mark.parametrize(
    "wrong", [np.zeros(7), np.zeros((0, 7)), [(np.zeros(3), np.zeros(3), 1)], "no", None]
)
def test_what_is_no_chunk_of_numbers_is_refused(name: str, wrong: Any) -> None:
    stage = build_stages({name: MINIMAL.get(name, {})}, ACTION_STAGES, "here")[name]
    with pytest.raises(PolicyError, match=rf"{name}: expected a chunk"):
        stage(wrong, CONTEXT)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unnormalize", {"low": -1}, "low and high"),
        ("unnormalize", {"low": -1, "high": 1, "std": 1}, "std=1"),
        ("unnormalize", {"method": "mean_std", "mean": 0, "std": "1"}, "found '1'"),
        ("unnormalize", {"method": "minimax", "low": -1, "high": 1}, "'minmax'"),
        ("unnormalize", {"low": 1, "high": -1}, "low <= high"),
        ("unnormalize", {"low": [0, 0], "high": [1, 1, 1]}, "found 2 and 3"),
        ("unnormalize", {"low": [float("nan")], "high": 1}, "list of numbers"),
        ("unnormalize", {"low": -1, "high": 1, "gripper": "skip"}, "bypass, scaled"),
        ("mu_law", {"mu": 0}, "above 0"),
        ("state_relative", {"euler_wrap": "off"}, "true or false"),
        ("scale", {"position": -50}, "above 0"),
        ("scale", {"inverse": 1}, "true or false"),
        ("clip", {"low": 1, "high": -1}, "low <= high"),
        ("columns", {"take": [0, -1]}, "from 0 up"),
        ("columns", {"take": "0"}, "list of columns"),
        ("cast", {"dtype": "bfloat16"}, "float16"),
        ("gripper", {}, "input"),
        ("gripper", {"input": "sigmoid"}, "logit, probability"),
        ("gripper", {"input": "logit", "high": "up"}, "open, close"),
        ("gripper", {"input": "logit", "threshold": "half"}, "found 'half'"),
        ("execute", {"steps": 0}, "from 1 up"),
        ("execute", {"steps": True}, "from 1 up"),
        ("ensemble", {"method": "temporal"}, "exponential"),
        ("ensemble", {"decay": 0}, "above 0"),
        ("ensemble", {"horizon": 0}, "from 1 up"),
        ("stagger", {"queries": 0}, "from 1 up"),
        ("orientation", {"source": "rotation_6d"}, "rotation_6d_rows"),
        ("accumulate", {"start": "target"}, "commanded, measured"),
        ("accumulate", {"frame": "body"}, "sum, world, tcp"),
        ("relative", {"start": "target"}, "commanded, measured"),
    ],
)
def test_wrong_options_are_usage_errors_that_name_what_was_expected(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_stages({name: options}, ACTION_STAGES, "policy.actions")
    assert name in str(caught.value)


@given(actions=UNIT, low=st.floats(-3, -0.1), width=st.floats(0.2, 4))
@settings(max_examples=25)
def test_unnormalising_undoes_normalising(
    actions: NDArray[np.float64], low: float, width: float
) -> None:
    inside = low + (actions + 1) / 2 * width
    normal = normalize(inside, low, low + width, keep="nothing")
    assert np.abs(normal).max() <= 1 + 1e-9
    np.testing.assert_allclose(
        unnormalize(normal, low, low + width, keep="nothing"), inside, atol=1e-9
    )


@given(actions=UNIT, mean=st.floats(-1, 1), std=st.floats(0.01, 3))
@settings(max_examples=25)
def test_unstandardising_undoes_standardising(
    actions: NDArray[np.float64], mean: float, std: float
) -> None:
    for keep in ("gripper", "last_row", "nothing"):
        normal = standardize(actions, mean, std, keep=keep)
        np.testing.assert_allclose(unstandardize(normal, mean, std, keep=keep), actions, atol=1e-9)


@given(actions=UNIT, mu=st.floats(1, 1000))
@settings(max_examples=25)
def test_expanding_undoes_companding(actions: NDArray[np.float64], mu: float) -> None:
    for keep in ("gripper", "last_row", "nothing"):
        np.testing.assert_allclose(
            expand(compress(actions, mu, keep=keep), mu, keep=keep), actions, atol=1e-9
        )
    assert np.abs(compress(actions, mu, keep="nothing")).max() <= 1 + 1e-12


def test_the_mu_law_stage_leaves_the_gripper_of_every_row_alone() -> None:
    actions = np.full((4, 7), 0.5, np.float32)
    result = MuLaw()(actions, CONTEXT)
    assert result.dtype == np.float32
    assert (result[:, 6] == 0.5).all()
    np.testing.assert_allclose(result[:, :6], (math.sqrt(256) - 1) / 255, rtol=1e-6)
    assert (MuLaw(gripper="scaled")(actions, CONTEXT)[:, 6] == result[:, 0]).all()


def test_vectors_of_statistics_belong_to_their_columns() -> None:
    low, high = [0, -1, -2, -3, -4, -5], [1, 1, 2, 3, 4, 5]
    actions = np.array([[-1, -1, 1, 0, 0.5, 1, 1]], np.float32)
    result = Unnormalize(method="quantiles", low=low, high=high)(actions, CONTEXT)
    np.testing.assert_allclose(result, [[0, -1, 2, 0, 2, 5, 1]], atol=1e-6)
    scaled = Unnormalize(low=[*low, 0], high=[*high, 9], gripper="scaled")
    assert scaled(actions, CONTEXT)[0, 6] == 9
    unlike = Unnormalize(low=low, high=high, gripper="scaled")
    with pytest.raises(UsageError, match="one number or 7"):
        unlike(actions, CONTEXT)


def test_mean_and_std_with_an_epsilon() -> None:
    stage = Unnormalize(method="mean_std", mean=[0.1] * 6, std=2, eps=1e-6)
    result = stage(np.full((1, 7), 0.5), CONTEXT)
    np.testing.assert_allclose(result[0], [0.1 + 0.5 * 2.000001] * 6 + [0.5], rtol=1e-12)


def test_clipping_before_unnormalising() -> None:
    actions = np.full((1, 7), 3.0)
    assert Unnormalize(low=-2, high=2, clip=True)(actions, CONTEXT).tolist() == [[2.0] * 6 + [3.0]]
    assert Unnormalize(low=-2, high=2)(actions, CONTEXT)[0, 0] == 6


@pytest.mark.parametrize(("maximum", "command"), [(0.65, 1), (2.0, 1), (0.4, -1)])
def test_a_scaled_gripper_of_one_opens_only_if_the_bounds_are_wide(
    maximum: float, command: int
) -> None:
    """Of the bounds (-m, m), 1 becomes m and 0 becomes 0: with m below 0.5 it never opens."""
    stage = Unnormalize(low=-maximum, high=maximum, gripper="scaled")
    read = Gripper(input="zero_one")
    one, zero = (read(stage(chunk(g), CONTEXT), CONTEXT)[0, 6] for g in (1, 0))
    assert (one, zero) == (command, -1)


def test_scaling_and_back() -> None:
    actions = np.array([[0.02, -0.01, 0, 0.05, -0.025, 0, 1]], np.float32)
    scaled = Scale()(actions, CONTEXT)
    np.testing.assert_allclose(scaled, [[1, -0.5, 0, 1, -0.5, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(Scale(inverse=True)(scaled, CONTEXT), actions, rtol=1e-6)
    assert scaled.dtype == np.float32


def test_clip_takes_a_number_for_the_pose_or_one_for_each_first_column() -> None:
    actions = np.full((2, 7), 5.0)
    assert Clip()(actions, CONTEXT).tolist() == [[1.0] * 6 + [5.0]] * 2
    bounded = Clip(low=[-1, -2, -3], high=[1, 2, 3])(actions, CONTEXT)
    assert bounded.tolist() == [[1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0]] * 2
    with pytest.raises(PolicyError, match="8 columns"):
        Clip(high=[1] * 8)(actions, CONTEXT)


def test_columns_and_casts() -> None:
    rows = np.arange(20.0)[None]
    assert Columns(take=[9, 0])(rows, CONTEXT).tolist() == [[9.0, 0.0]]
    with pytest.raises(PolicyError, match="21 columns"):
        Columns(take=[20])(rows, CONTEXT)
    rounded = Cast(dtype="float16")(np.full((1, 7), 0.1), CONTEXT)
    assert rounded.dtype == np.float16
    assert float(rounded[0, 0]) != 0.1


@pytest.mark.parametrize(
    ("options", "values", "commands"),
    [
        ({"input": "logit"}, [-3, -0.1, 0, 0.1, 90, -90], [-1, -1, -1, 1, 1, -1]),
        ({"input": "logit", "threshold": 0.4}, [-0.41, -0.4], [-1, 1]),
        ({"input": "probability"}, [0.49, 0.5, 0.51], [-1, -1, 1]),
        ({"input": "zero_one"}, [0, 1], [-1, 1]),
        ({"input": "signed"}, [-1, -0.1, 0, 0.1, 1], [-1, -1, -1, 1, 1]),
        ({"input": "signed", "high": "close"}, [-1, 1], [1, -1]),
        (
            {"input": "probability", "threshold": 0.8, "high": "close", "inclusive": True},
            [0.79, 0.8, 0.81],
            [1, -1, -1],
        ),
        ({"input": "probability", "inclusive": True}, [0.49, 0.5], [-1, 1]),
        ({"input": "logit", "output": "zero_one"}, [-1, 1], [0, 1]),
        ({"input": "zero_one", "high": "close", "output": "zero_one"}, [0, 1], [1, 0]),
    ],
)
def test_gripper_conventions(
    options: dict[str, Any], values: list[float], commands: list[float]
) -> None:
    for dtype in (np.float32, np.float64):
        result = Gripper(**options)(chunk(*values, dtype=dtype), CONTEXT)
        assert result.dtype == dtype
        assert result[:, 6].tolist() == commands
        assert not result[:, :6].any()


def test_probabilities_for_an_ensemble_are_of_opening() -> None:
    def of(values: list[float], **options: Any) -> list[float]:
        stage = Gripper(output="probability", **options)
        column: list[float] = stage(chunk(*values, dtype=np.float64), CONTEXT)[:, 6].tolist()
        return column

    assert of([0, math.log(3)], input="logit") == pytest.approx([0.5, 0.75])
    assert of([0.2], input="probability", high="close") == pytest.approx([0.8])
    assert of([-1, 0, 1], input="signed") == pytest.approx([0, 0.5, 1])


def test_a_logit_is_split_as_torch_splits_its_sigmoid() -> None:
    logits = np.random.default_rng(1).normal(0, 4, 4000).astype(np.float32)
    theirs = torch.sigmoid(torch.from_numpy(logits))
    ours = Gripper(input="logit", output="zero_one")(chunk(*logits), CONTEXT)[:, 6]
    np.testing.assert_array_equal(ours, (theirs > 0.5).float().numpy())
    np.testing.assert_allclose(sigmoid(logits), theirs.numpy(), atol=2e-7)


def test_execute_takes_m_of_n() -> None:
    actions = np.arange(70.0).reshape(10, 7)
    assert Execute(steps=3)(actions, CONTEXT)[:, 0].tolist() == [0, 7, 14]
    assert len(Execute(steps=10)(actions, CONTEXT)) == 10
    assert Execute(steps=1, start=9)(actions, CONTEXT)[0][0] == 63
    with pytest.raises(PolicyError, match="11 actions or more, found 10"):
        Execute(steps=10, start=1)(actions, CONTEXT)
    with pytest.raises(PolicyError, match="found NoneType"):
        Execute(steps=1)(None, CONTEXT)


def test_tensors_are_taken_as_they_are() -> None:
    result = Scale()(torch.ones(2, 7, dtype=torch.bfloat16, requires_grad=True), CONTEXT)
    assert result.dtype == np.float32
    assert result[0].tolist() == [50, 50, 50, 20, 20, 20, 1]


def test_an_unknown_stage_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'unnormalize'"):
        build_stages({"unnormalise": {"low": -1}}, ACTION_STAGES, "policy.actions")
