"""Confidence bounds of the mean of whole numbers that lie between two known ends.

The same method serves the live view, `summary.json`, the report, `compare` and `gate`. For the
lower bound, the least possible value is added to the data once; for the upper, the greatest. Then
every value gets a random share of the whole, all divisions into shares being equally likely, and
the bound is a quantile of the mean of the values with these shares as weights (Gaffke 2005;
Learned-Miller and Thomas, "A new confidence interval for the mean of a bounded random variable",
2019). Of data that are all at one end or the other it is Clopper and Pearson's interval; of many
data it is the ordinary one, mean and 1.96 standard errors. It does not depend on the order of the
data and draws nothing.

That it covers the mean with the stated confidence whatever the distribution is proven for two
values, and no counterexample is known for more; `tests/results/test_means.py` computes it for few
data and simulates it for many.

How often each value occurs is all that matters: the shares of the distinct values have a Dirichlet
distribution, and the chance that their mean is at most x is the chance that a sum of independent
gamma variables, each times (value - x), is at most 0. The formula of Gil-Pelaez gives it as an
integral over their characteristic function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from calvin_eval.results.intervals import Interval

DIGITS = 6
"""Decimals of a bound: the same on every machine, whatever its mathematical library."""

_Floats = NDArray[np.float64]
_EXPONENTS: _Floats = np.arange(-32.0, 28.0, 0.05)
_STEPS = 100
_NODES = 48


def mean_interval(values: Sequence[int], ends: tuple[int, int], level: float = 0.95) -> Interval:
    """The two-sided interval of a mean.

    Args:
        values: whole numbers; without any, the interval is all that is possible.
        ends: the least and the greatest possible value.
        level: confidence, above 0 and below 1.

    Raises:
        ValueError: a value lies beyond the ends.
    """
    low, high = mean_bounds([(value, value) for value in values], ends, level)
    return Interval(low=low, high=high)


def mean_bounds(
    spans: Iterable[tuple[int, int]], ends: tuple[int, int], level: float
) -> tuple[float, float]:
    """The same where some values are only known to lie in a span.

    Args:
        spans: the least and the greatest that each value may have been; the least count for the
            lower bound, the greatest for the upper.
        ends: the least and the greatest possible value.
        level: confidence, above 0 and below 1.
    """
    spans = list(spans)
    if any(not ends[0] <= low <= high <= ends[1] for low, high in spans):
        raise ValueError(f"expected values from {ends[0]} to {ends[1]}, found {spans}")
    if not spans:
        return float(ends[0]), float(ends[1])
    tail = (1 - level) / 2
    lows = Counter([*(low for low, _ in spans), ends[0]])
    highs = Counter([*(high for _, high in spans), ends[1]])
    return _quantile(_key(lows), tail), _quantile(_key(highs), 1 - tail)


def mean_sign(counts: Mapping[int, int], ends: tuple[int, int], level: float) -> int:
    """1 if the interval of a mean lies above 0, -1 if below, 0 if it has 0 in it.

    The same as looking at `mean_interval`'s ends, without finding them.

    Args:
        counts: value -> how often it occurs.
        ends: the least and the greatest possible value.
        level: confidence, above 0 and below 1.
    """
    tail, total = (1 - level) / 2, sum(value * n for value, n in counts.items())
    if total == 0:
        return 0
    sign = 1 if total > 0 else -1
    turned = Counter({sign * value: n for value, n in counts.items()})
    turned[min(sign * end for end in ends)] += 1
    if min(turned) >= 0:
        return sign
    return sign if max(turned) > 0 and _chance_below_zero(_key(turned)) < tail else 0


def difference_bounds(
    spans: Iterable[tuple[int, int]], others: Sequence[int], top: int, level: float
) -> tuple[float, float]:
    """Bounds of the difference of two independent means, of values from 0 to `top`.

    The distributions that give each mean's bounds are subtracted ("melding": Fay, Proschan and
    Brittain, Biometrics 2015).

    Args:
        spans: as for `mean_bounds`, of the first mean; at least one.
        others: values of the second mean; at least one.
        top: the greatest possible value of either; the least is 0.
        level: confidence, above 0 and below 1.
    """
    spans, tail = list(spans), (1 - level) / 2
    lows, highs = [low for low, _ in spans], [high for _, high in spans]
    low = _difference_quantile(Counter([*lows, 0]), Counter([*others, top]), tail)
    high = _difference_quantile(Counter([*highs, top]), Counter([*others, 0]), 1 - tail)
    return low, high


def weighted_mean_cdf(counts: Mapping[int, int], points: _Floats) -> _Floats:
    """The chance that the mean of values with random shares is at most each of some numbers.

    Args:
        counts: value -> how often it occurs; two values or more.
        points: shape (n,), between the least and the greatest value, these excluded.

    Returns:
        Shape (n,).
    """
    values = np.array(sorted(counts), dtype=np.float64)
    times = np.array([counts[int(value)] for value in values], dtype=np.float64)
    slopes = values - points[:, None]
    scale = 1 / np.sqrt((times * slopes**2).sum(axis=1))
    angles = np.zeros((len(points), len(_EXPONENTS)))
    decay = np.zeros_like(angles)
    places = np.exp(_EXPONENTS) * scale[:, None]
    for slope, count in zip(slopes.T, times, strict=True):
        turned = places * slope[:, None]
        angles += count * np.arctan(turned)
        decay -= count / 2 * np.log1p(turned**2)
    step = _EXPONENTS[1] - _EXPONENTS[0]
    integral = (np.sin(angles) * np.exp(decay)).sum(axis=1) * step
    chances: _Floats = np.clip(0.5 - integral / np.pi, 0, 1)
    return chances


def _key(counts: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(counts.items()))


@lru_cache(maxsize=4096)
def _chance_below_zero(counts: tuple[tuple[int, int], ...]) -> float:
    """The chance that the weighted mean is at most 0, which lies between its values."""
    return float(weighted_mean_cdf(dict(counts), np.zeros(1))[0])


@lru_cache(maxsize=1024)
def _quantile(counts: tuple[tuple[int, int], ...], chance: float) -> float:
    """Where the chance of the weighted mean reaches a value."""
    values = dict(counts)
    low, high = float(min(values)), float(max(values))
    if low == high:
        return low

    def excess(x: float) -> float:
        return float(weighted_mean_cdf(values, np.array([x]))[0]) - chance

    return round(_root(excess, low, high, -chance, 1 - chance), DIGITS)


def _difference_quantile(ours: Counter[int], theirs: Counter[int], chance: float) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    places = [_quantile(_key(theirs), float(p)) for p in (nodes + 1) / 2]
    low, high = float(min(ours)), float(max(ours))

    def excess(x: float) -> float:
        at = np.array(places) + x
        inside = (at > low) & (at < high)
        chances = (at >= high).astype(np.float64)
        if low < high and inside.any():
            chances[inside] = weighted_mean_cdf(ours, at[inside])
        return float(chances @ weights / 2) - chance

    least, most = low - max(theirs), high - min(theirs)
    return round(_root(excess, least, most, -chance, 1 - chance), DIGITS)


def _root(
    function: Callable[[float], float], low: float, high: float, below: float, above: float
) -> float:
    """Where an increasing function is 0, by regula falsi with the Illinois rule.

    Args:
        function: to be evaluated between the ends.
        low: an end.
        high: the other.
        below: what the function is at `low`, at most 0.
        above: what it is at `high`, at least 0.
    """
    side = 0
    for _ in range(_STEPS):
        if high - low < 0.1**DIGITS / 20:
            break
        middle = (low * above - high * below) / (above - below)
        middle = min(max(middle, low + (high - low) / 100), high - (high - low) / 100)
        value = function(middle)
        if value < 0:
            low, below = middle, value
            above, side = (above / 2 if side < 0 else above), -1
        else:
            high, above = middle, value
            below, side = (below / 2 if side > 0 else below), 1
    return (low + high) / 2
