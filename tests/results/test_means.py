"""Intervals of a mean: exact where that can be computed, simulated where it cannot."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from calvin_eval.results.intervals import Interval
from calvin_eval.results.means import (
    difference_bounds,
    mean_bounds,
    mean_interval,
    weighted_mean_cdf,
)

TRUTHS = (0, 0.05, 2.5, 4.4, 4.98, 5)


def shapes(mean: float) -> list[np.ndarray]:
    """Distributions over 0..5 with a mean: all at the ends, hardly any spread, and a policy's."""
    ends = np.array([1 - mean / 5, 0, 0, 0, 0, mean / 5])
    near = np.zeros(6)
    near[min(int(mean), 4) : min(int(mean), 4) + 2] = 1 - mean % 1, mean % 1
    if mean == 5:
        near = ends
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        policy = np.array([*((1 - q) * q**k for k in range(5)), q**5])
        low, high = (q, high) if policy @ np.arange(6) < mean else (low, q)
    found = [ends, near, policy / policy.sum(), (ends + near) / 2]
    assert all(abs(chances @ np.arange(6) - mean) < 1e-6 for chances in found)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20, 1000])
def test_of_two_values_it_is_clopper_and_pearsons(n: int) -> None:
    for k in {0, 1, n // 3, n // 2, n - 1, n}:
        found = mean_interval([5] * k + [0] * (n - k), (0, 5))
        low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0
        high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1
        assert (found.low, found.high) == pytest.approx((5 * low, 5 * high), abs=2e-6)


def test_of_many_values_it_is_the_ordinary_one() -> None:
    values = np.random.default_rng(0).choice(6, size=1000, p=[0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values.tolist(), (0, 5))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)
    assert found.high - found.low < 1.03 * (reference.high - reference.low)


def test_the_chances_are_those_of_random_shares() -> None:
    counts = {0: 2, 3: 1, 4: 5, 5: 2}
    drawn = np.random.default_rng(1).dirichlet(list(counts.values()), size=200_000)
    means = np.sort(drawn @ list(counts))
    for x, chance in zip(means[::20_000], np.linspace(0, 1, 10, endpoint=False), strict=True):
        assert weighted_mean_cdf(counts, np.array([x]))[0] == pytest.approx(chance, abs=0.005)


def test_nothing_is_proven_by_few_chains_and_nothing_possible_is_left_out() -> None:
    assert mean_interval([5] * 20, (0, 5)) == Interval(low=4.157833, high=5.0)
    assert mean_interval([0], (0, 5)) == Interval(low=0.0, high=4.875)
    assert mean_interval([], (0, 5)) == Interval(low=0, high=5)
    few = mean_interval([3, 4, 4], (0, 5))
    assert few.low < 3 < 4 < few.high < 5
    with pytest.raises(ValueError, match="from 0 to 5"):
        mean_interval([6], (0, 5))


def test_neither_order_nor_the_unit_matters() -> None:
    values = [5, 0, 3, 3, 1, 5, 5]
    found = mean_interval(values, (0, 5))
    assert mean_interval(sorted(values), (0, 5)) == found
    moved = mean_interval([v - 5 for v in values], (-5, 0))
    assert (moved.low + 5, moved.high + 5) == pytest.approx((found.low, found.high), abs=2e-6)
    wider = mean_interval(values, (0, 5), 0.99)
    assert wider.low < found.low < found.high < wider.high


def test_what_is_not_known_makes_it_wider() -> None:
    spans = [(3, 3), (0, 5), (4, 4)]
    low, _ = mean_bounds([(3, 3), (0, 0), (4, 4)], (0, 5), 0.95)
    _, high = mean_bounds([(3, 3), (5, 5), (4, 4)], (0, 5), 0.95)
    assert mean_bounds(spans, (0, 5), 0.95) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_coverage_of_few_chains_by_all_their_outcomes(n: int) -> None:
    outcomes = list(itertools.combinations_with_replacement(range(6), n))
    found = [mean_interval(outcome, (0, 5)) for outcome in outcomes]
    low = np.array([interval.low for interval in found]) - 1e-6
    high = np.array([interval.high for interval in found]) + 1e-6
    ways = [
        math.factorial(n) / math.prod(math.factorial(k) for k in Counter(outcome).values())
        for outcome in outcomes
    ]
    counts = np.array([[outcome.count(value) for value in range(6)] for outcome in outcomes])
    rng = np.random.default_rng(n)
    drawn = [chances for a in (0.05, 0.3, 1, 5) for chances in rng.dirichlet([a] * 6, size=500)]
    for chances in [*drawn, *(shape for truth in TRUTHS for shape in shapes(truth))]:
        share = ways * np.prod(chances**counts, axis=1)
        mean = chances @ np.arange(6)
        assert share[(low > mean)].sum() <= 0.025
        assert share[(high < mean)].sum() <= 0.025


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_coverage_of_more_chains_simulated(n: int, truth: float) -> None:
    runs = 1000
    rng = np.random.default_rng([n, round(100 * truth)])
    for chances in shapes(truth):
        mean = chances @ np.arange(6)
        missed = 0
        for counts, times in Counter(map(tuple, rng.multinomial(n, chances, size=runs))).items():
            values = np.repeat(np.arange(6), counts).tolist()
            missed += times * (not covers(values, mean))
        # 5 %, and twice the standard error of a share of 5 % in 1000.
        assert missed / runs <= 0.05 + 2 * 0.007


def covers(values: list[int], mean: float) -> bool:
    """Whether the interval of some values has a mean in it, without looking for its ends."""
    chances = []
    for end in (0, 5):
        counts = Counter([*values, end])
        if len(counts) == 1:
            chances.append(0.0 if end else 1.0)
            continue
        inside = np.array([min(max(mean, min(counts) + 1e-9), max(counts) - 1e-9)])
        chances.append(float(weighted_mean_cdf(counts, inside)[0]))
    return chances[0] >= 0.025 - 1e-9 and chances[1] <= 0.975 + 1e-9


def test_the_shortcut_of_the_simulation_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        values = rng.choice(6, size=rng.integers(1, 12), p=[0.3, 0, 0.1, 0, 0, 0.6]).tolist()
        found = mean_interval(values, (0, 5))
        for mean in (found.low - 1e-4, found.low + 1e-4, found.high - 1e-4, found.high + 1e-4, 2.5):
            if 0 <= mean <= 5:
                assert covers(values, mean) == (found.low <= mean <= found.high), (values, mean)


@pytest.mark.slow
def test_the_difference_of_two_means() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(0, 6, 400).tolist(), rng.integers(2, 6, 300).tolist()
    low, high = difference_bounds([(v, v) for v in ours], theirs, 5, 0.95)
    reference = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.02)
    assert difference_bounds([(5, 5)], [0], 5, 0.95)[1] == 5
    low, high = difference_bounds([(5, 5)] * 3, [5] * 3, 5, 0.95)
    assert low < -2
    assert high > 2


@pytest.mark.slow
def test_the_difference_of_two_means_holds_its_confidence() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = np.array([0.1, 0, 0, 0, 0, 0.9]), np.array([0.2, 0.1, 0, 0, 0.3, 0.4])
    truth = (ours - theirs) @ np.arange(6)
    missed = 0
    for _ in range(40):
        a, b = rng.choice(6, 8, p=ours).tolist(), rng.choice(6, 12, p=theirs).tolist()
        low, high = difference_bounds([(v, v) for v in a], b, 5, 0.8)
        missed += not low <= truth <= high
    assert missed / 40 <= 0.2 + 2 * 0.063
