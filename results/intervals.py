"""95 % confidence intervals that do not depend on the order of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
