"""Statistics of two runs of the same chains.

Everything here depends on how often each difference occurs and not on the order of the chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calvin_eval.results.means import mean_interval


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean difference, other run less first run, with its 95 % interval."""

    estimate: float
    low: float
    high: float


def mean_difference(differences: Sequence[int], reach: int) -> Contrast:
    """Mean difference and its interval, by the same method as the interval of a mean.

    Args:
        differences: one whole number per chain, at least one.
        reach: the greatest possible difference, in either direction.
    """
    if len(differences) == 0:
        raise ValueError("expected at least one difference")
    interval = mean_interval(differences, (-reach, reach))
    mean = sum(differences) / len(differences)
    return Contrast(estimate=mean, low=interval.low, high=interval.high)


def sign_flip_test(differences: Sequence[int]) -> float:
    """Exact two-sided p-value of a mean difference of 0.

    If the two runs do not differ but by chance, each chain's results might as well be swapped:
    all 2^n ways of swapping are equally likely. Their sums are counted by convolution.
    """
    from scipy.stats import binom  # takes seconds to load: only for who compares

    values = np.asarray(differences, dtype=np.int64)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    chance = np.ones(1)  # of every sum, from the lowest possible one
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, steps)
    reach = len(chance) // 2
    sums = np.abs(np.arange(-reach, reach + 1))
    return float(min(chance[sums >= abs(int(values.sum()))].sum(), 1.0))


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact two-sided p-value of McNemar's test, from the two numbers of discordant pairs."""
    from scipy.stats import binomtest

    discordant = only_one + only_other
    return float(binomtest(only_one, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values after Holm's correction for looking at all of them.

    Whatever the dependence between the tests, the chance of even one false finding stays below
    the level at which these are read.
    """
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    adjusted: dict[str, float] = {}
    worst = 0.0
    for rank, (name, p) in enumerate(ordered):
        worst = max(worst, min((len(ordered) - rank) * p, 1.0))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p_values}
