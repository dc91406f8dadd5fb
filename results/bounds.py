"""Confidence bounds of a proportion at any level, for numbers of attempts fixed in advance."""

from __future__ import annotations


def clopper_pearson(success: int, total: int, level: float) -> tuple[float, float]:
    """The exact interval of a proportion; everything without attempts."""
    from scipy.stats import beta  # takes seconds to load: only for who asks for bounds

    alpha = 1 - level
    low = float(beta.ppf(alpha / 2, success, total - success + 1)) if success else 0.0
    high = float(beta.ppf(1 - alpha / 2, success + 1, total - success)) if success < total else 1.0
    return low, high
