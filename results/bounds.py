"""Confidence bounds at any level, for runs whose number of chains was fixed in advance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import beta, t


def mean_bounds(
    spans: Sequence[tuple[int, int]], ends: tuple[int, int], level: float
) -> tuple[float, float]:
    """Student's interval of a mean, made safe for few values and for values that are all equal.

    Each bound is computed with one value added that speaks for it as loudly as any can: the least
    possible one for the lower, the greatest for the upper. Of 1000 chains that moves a bound by
    0.005 at most; of five chains that all did all tasks, it keeps the lower bound from being 5.

    Args:
        spans: the least and the greatest that each value may have been.
        ends: the least and the greatest possible value.
        level: of the two-sided interval.
    """
    if not spans:
        return float(ends[0]), float(ends[1])
    low, low_error = _mean_and_error([a for a, _ in spans] + [ends[0]])
    high, high_error = _mean_and_error([b for _, b in spans] + [ends[1]])
    reach = float(t.ppf((1 + level) / 2, len(spans)))
    return max(low - reach * low_error, ends[0]), min(high + reach * high_error, ends[1])


def unpaired_bounds(
    spans: Sequence[tuple[int, int]], others: Sequence[int], top: int, level: float
) -> tuple[float, float]:
    """The same for the difference of two independent means, by Welch's degrees of freedom.

    Args:
        spans: of the first mean; at least one.
        others: values of the second mean; at least one.
        top: the greatest possible value of either; the least is 0.
        level: of the two-sided interval.
    """
    bounds: list[float] = []
    for sign, ours, theirs in (
        (-1, [*(a for a, _ in spans), 0], [*others, top]),
        (1, [*(b for _, b in spans), top], [*others, 0]),
    ):
        (mean, error), (other, other_error) = _mean_and_error(ours), _mean_and_error(theirs)
        both = error**2 + other_error**2
        if not both:  # all values are already as far apart as they can be
            bounds.append(sign * top)
            continue
        freedom = both**2 / (error**4 / (len(ours) - 1) + other_error**4 / (len(theirs) - 1))
        reach = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(both)
        bounds.append(min(max(mean - other + sign * reach, -top), top))
    return bounds[0], bounds[1]


def _mean_and_error(values: Sequence[int]) -> tuple[float, float]:
    """A mean and its standard error, of two values or more."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def clopper_pearson(success: int, total: int, level: float) -> tuple[float, float]:
    """The exact interval of a proportion; everything without attempts."""
    alpha = 1 - level
    low = float(beta.ppf(alpha / 2, success, total - success + 1)) if success else 0.0
    high = float(beta.ppf(1 - alpha / 2, success + 1, total - success)) if success < total else 1.0
    return low, high
