"""Several predictions for one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from action_contexts import context_at
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.ensemble import Ensemble, Stagger


def plans(count: int, length: int = 4, dtype: Any = np.float64) -> NDArray[Any]:
    return np.random.default_rng(count).uniform(-1, 1, (count, length, 7)).astype(dtype)


def run(stage: Ensemble, made: NDArray[Any], steps: list[int] | None = None) -> list[NDArray[Any]]:
    """What the stage returns for plans that are made at the given steps of one subtask."""
    memory: dict[str, Any] = {}
    steps = list(range(len(made))) if steps is None else steps
    return [stage(p, context_at(step=s, memory=memory)) for p, s in zip(made, steps, strict=True)]


def test_first_is_the_first_action_of_the_newest_chunk() -> None:
    made = plans(3, dtype=np.float32)
    for plan, result in zip(made, run(Ensemble(method="first"), made), strict=True):
        np.testing.assert_array_equal(result, plan[:1])
        assert result.dtype == np.float32


def test_latest_is_the_newest_chunk() -> None:
    made = plans(3)
    for plan, result in zip(made, run(Ensemble(method="latest"), made), strict=True):
        np.testing.assert_array_equal(result, plan)


@pytest.mark.parametrize("decay", [1.0, 0.5, 1.3])
def test_an_action_is_the_weighted_mean_of_what_was_predicted_for_its_step(decay: float) -> None:
    made = plans(6, length=3)
    for now, result in enumerate(run(Ensemble(decay=decay), made)):
        for row in range(3):
            ages = [age for age in range(3 - row) if age <= now]
            weights = [decay**age for age in ages]
            terms = [w * made[now - age, row + age] for w, age in zip(weights, ages, strict=True)]
            np.testing.assert_allclose(result[row], sum(terms) / sum(weights), atol=1e-12)


def test_act_weighs_its_oldest_prediction_most() -> None:
    """ACT: weights exp(-0.01 i), of which i = 0 is the oldest prediction."""
    made = plans(5, length=5)
    result = run(Ensemble(decay=float(np.exp(0.01))), made)[-1][0]
    predictions = np.stack([made[i, 4 - i] for i in range(5)])
    weights = np.exp(-0.01 * np.arange(5))
    np.testing.assert_allclose(result, weights @ predictions / weights.sum(), atol=1e-12)


def test_adaptive_weights_follow_the_angle_to_the_newest_prediction() -> None:
    """CogACT: exp(alpha cos) over the last `horizon` predictions for the present step."""
    made = plans(5, length=8)
    result = run(Ensemble(method="adaptive", alpha=2.0, horizon=3), made)[-1][0]
    predictions = np.stack([made[4 - age, age] for age in (2, 1, 0)])
    newest = predictions[-1]
    lengths = np.linalg.norm(predictions, axis=1) * np.linalg.norm(newest)
    weights = np.exp(2.0 * (predictions @ newest) / (lengths + 1e-7))
    np.testing.assert_allclose(result, weights @ predictions / weights.sum(), atol=1e-9)


def test_predictions_are_aligned_by_environment_steps() -> None:
    """With three actions per decision, the fourth of a plan meets the first of the next."""
    made = plans(3, length=5)
    results = run(Ensemble(), made, steps=[0, 3, 6])
    np.testing.assert_allclose(results[1][0], (made[0, 3] + made[1, 0]) / 2)
    np.testing.assert_allclose(results[1][1], (made[0, 4] + made[1, 1]) / 2)
    np.testing.assert_array_equal(results[1][2:], made[1, 2:])
    np.testing.assert_allclose(results[2][0], (made[1, 3] + made[2, 0]) / 2)


def test_a_prediction_older_than_its_chunk_is_dropped() -> None:
    made = plans(2, length=3)
    memory: dict[str, Any] = {}
    Ensemble()(made[0], context_at(step=0, memory=memory))
    result = Ensemble()(made[1], context_at(step=3, memory=memory))
    np.testing.assert_array_equal(result, made[1])
    assert len(memory["plans"]) == 1


def test_plans_of_an_earlier_subtask_do_not_count() -> None:
    """Not even where a policy is reset once per chain: steps start at zero again."""
    made = plans(2)
    for earlier in (0, 5):
        memory: dict[str, Any] = {}
        Ensemble()(made[0], context_at(step=earlier, memory=memory))
        result = Ensemble()(made[1], context_at(step=1, position=1, memory=memory))
        np.testing.assert_array_equal(result, made[1])


@given(
    horizon=st.one_of(st.none(), st.integers(1, 4)),
    method=st.sampled_from(["exponential", "adaptive"]),
    decay=st.floats(0.1, 3),
)
@settings(max_examples=20)
def test_a_mean_lies_between_its_predictions_and_keeps_their_type(
    horizon: int | None, method: str, decay: float
) -> None:
    made = plans(6, length=4, dtype=np.float32)
    stage = Ensemble(method=method, decay=decay, horizon=horizon)
    for now, result in enumerate(run(stage, made)):
        assert result.dtype == np.float32
        oldest = max(0, now - 3, now + 1 - (horizon or 6))
        said = np.stack([made[i, now - i] for i in range(oldest, now + 1)])
        assert (result[0] <= said.max(axis=0) + 1e-6).all()
        assert (result[0] >= said.min(axis=0) - 1e-6).all()


def test_what_is_remembered_is_a_copy() -> None:
    made = plans(2)
    memory: dict[str, Any] = {}
    buffer = made[0].copy()
    Ensemble()(buffer, context_at(step=0, memory=memory))
    buffer[:] = 99
    result = Ensemble()(made[1], context_at(step=1, memory=memory))
    np.testing.assert_allclose(result[0], (made[0, 1] + made[1, 0]) / 2)


def stagger(stage: Stagger, made: NDArray[Any]) -> list[NDArray[Any]]:
    memory: dict[str, Any] = {}
    return [stage(plan, context_at(memory=memory)) for plan in made]


@pytest.mark.parametrize("repeat", [False, True])
def test_three_staggered_queries_make_ten_actions(repeat: bool) -> None:
    """VLA-Adapter's loop, step for step; `repeat` is what it does, without is what it means."""
    made = plans(6, length=8)
    a, b, c = made[:3]
    results = stagger(Stagger(repeat=repeat), made)
    assert [len(result) for result in results] == [1, 1, 8, 1, 1, 8]
    common = [(a[t] + b[t - 1] + c[t - 2]) / 3 for t in range(2, 8)]
    middle = [common[0], *common[:-1]] if repeat else common
    expected = [a[0], (a[1] + b[0]) / 2, *middle, (b[7] + c[6]) / 2, c[7]]
    np.testing.assert_allclose(np.concatenate(results[:3]), expected, atol=1e-12)
    again = stagger(Stagger(repeat=repeat), made[3:])
    np.testing.assert_array_equal(np.concatenate(results[3:]), np.concatenate(again))


def test_one_query_is_the_plan_itself() -> None:
    made = plans(2)
    for plan, result in zip(made, stagger(Stagger(queries=1), made), strict=True):
        np.testing.assert_array_equal(result, plan)
