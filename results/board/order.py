"""The order of entries that ran the same chains: groups that can be told apart, and no others.

Every two entries are compared chain by chain: the interval of the mean difference of their lengths,
by the method of all means here (`results/means.py`), at a level at which all intervals of a table
hold together (Bonferroni's). Two entries can be told apart if it excludes 0. An entry's place is
then known to lie between the number of entries that are better, and of those that are not worse.

A group begins with the best entry that is in none, and goes on until one can be told apart from
that first: what stands in one group need not be equal, and is not known to differ from its first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from calvin_eval.results.means import mean_sign

CONFIDENCE: Final = 0.95
"""That all statements of one table hold together."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an entry stands.

    Attributes:
        group: from 1.
        best: the best place that it can have.
        worst: the worst.
    """

    group: int
    best: int
    worst: int


def standings(lengths: Sequence[Sequence[int]], top: int) -> tuple[Standing, ...]:
    """Where each of some entries stands.

    Args:
        lengths: per entry, the best average first, the tasks in a row of the same chains in the
            same order.
        top: the greatest possible length.
    """
    signs = _signs(lengths, top)
    groups = _groups(signs)
    count = len(lengths)
    return tuple(
        Standing(
            group=groups[i],
            best=1 + int((signs[i] < 0).sum()),
            worst=count - int((signs[i] > 0).sum()),
        )
        for i in range(count)
    )


def pair_level(count: int) -> float:
    """The confidence of each comparison, at which all pairs of so many entries hold together."""
    pairs = count * (count - 1) // 2
    return 1 - (1 - CONFIDENCE) / max(pairs, 1)


def _signs(lengths: Sequence[Sequence[int]], top: int) -> np.ndarray:
    """Of every two entries: 1 where the first is known to be better, -1 worse, 0 neither."""
    table = np.array([tuple(row) for row in lengths], dtype=np.int64)
    count, level = len(lengths), pair_level(len(lengths))
    signs = np.zeros((count, count), dtype=np.int64)
    for i in range(count):
        for j in range(i + 1, count):
            values = np.bincount(table[i] - table[j] + top, minlength=2 * top + 1)
            counts = Counter({k - top: int(n) for k, n in enumerate(values) if n})
            signs[i, j] = mean_sign(counts, (-top, top), level)
            signs[j, i] = -signs[i, j]
    return signs


def _groups(signs: np.ndarray) -> list[int]:
    groups: list[int] = []
    first = 0
    for i in range(len(signs)):
        if not groups:
            groups.append(1)
        elif signs[first, i] > 0:
            first = i
            groups.append(groups[-1] + 1)
        else:
            groups.append(groups[-1])
    return groups
