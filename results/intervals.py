"""95 % confidence intervals that do not depend on the order of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided 95 % confidence interval, both ends included."""

    low: float
    high: float


def wilson(success: int, total: int) -> Interval:
    """Wilson's score interval of a proportion; `total` must be at least 1."""
    if not 0 <= success <= total or total < 1:
        raise ValueError(f"expected 0 <= success <= total and total >= 1: {success} of {total}")
    share, z2 = success / total, _Z95**2 / total
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    # At the ends the bound is exact; rounding must not push it past the proportion.
    low = 0.0 if success == 0 else centre - half
    high = 1.0 if success == total else centre + half
    return Interval(low=low, high=high)


def bootstrap_mean(
    values: Sequence[int], rng: np.random.Generator, *, resamples: int = 10_000
) -> Interval:
    """Percentile bootstrap of the mean of whole numbers, resampling the values.

    Drawing how often each distinct value occurs is the same as drawing the values one by one,
    and makes the result independent of their order.

    Args:
        values: at least one number, each 0 or more (chain lengths).
        rng: where the randomness comes from.
        resamples: number of resampled means.
    """
    if len(values) == 0:
        raise ValueError("expected at least one value to bootstrap")
    counts = np.bincount(np.asarray(values, dtype=np.int64))
    draws = rng.multinomial(len(values), counts / counts.sum(), size=resamples)
    means = draws @ np.arange(len(counts)) / len(values)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(low=float(low), high=float(high))
