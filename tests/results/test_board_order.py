"""Order only where the statistics give one."""

from __future__ import annotations

import numpy as np
import pytest

from calvin_eval.results.board.order import pair_level, standings
from calvin_eval.results.means import mean_interval, mean_sign


@pytest.mark.parametrize("level", [0.95, 0.9999])
def test_a_sign_is_that_of_the_interval(level: float) -> None:
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(25):
        drawn = rng.integers(-5, 6, size=40) + int(rng.integers(-3, 4))
        values = [int(v) for v in np.clip(drawn, -5, 5)]
        spread = mean_interval(values, (-5, 5), level)
        counts = {v: values.count(v) for v in set(values)}
        wanted = 1 if spread.low > 0 else -1 if spread.high < 0 else 0
        assert mean_sign(counts, (-5, 5), level) == wanted
        seen.add(wanted)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("counts", "sign"),
    [({0: 1000}, 0), ({5: 100}, 1), ({-5: 100}, -1), ({5: 1}, 0), ({1: 3, -1: 3}, 0), ({}, 0)],
)
def test_signs_at_the_ends(counts: dict[int, int], sign: int) -> None:
    assert mean_sign(counts, (-5, 5), 0.95) == sign


def test_entries_that_do_the_same_stand_together() -> None:
    rows = [[3, 4, 5, 0] * 20] * 4
    assert [(s.group, s.best, s.worst) for s in standings(rows, 5)] == [(1, 1, 4)] * 4


def test_one_entry_has_the_one_place() -> None:
    (only,) = standings([[1, 2, 3]], 5)
    assert (only.group, only.best, only.worst) == (1, 1, 1)


def test_pairing_tells_apart_what_averages_do_not() -> None:
    """A tenth of a task more in most chains: less than a mean's interval, and beyond doubt."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 5, size=300)
    better = base + (rng.random(300) < 0.2)
    rows = [[int(v) for v in better], [int(v) for v in base]]
    one, other = (mean_interval(row, (0, 5)) for row in rows)
    assert other.high > one.low
    assert [(s.group, s.best, s.worst) for s in standings(rows, 5)] == [(1, 1, 1), (2, 2, 2)]
    shuffled = [rows[0], [int(v) for v in rng.permutation(base)]]
    assert [(s.group, s.best, s.worst) for s in standings(shuffled, 5)] == [(1, 1, 2), (1, 1, 2)]


def test_groups_begin_where_the_first_is_left_behind() -> None:
    rows = [[5] * 60, [5] * 55 + [4] * 5, [2] * 60, [0] * 60]
    found = standings(rows, 5)
    assert [s.group for s in found] == [1, 1, 2, 3]
    assert [(s.best, s.worst) for s in found] == [(1, 2), (1, 2), (3, 3), (4, 4)]


@pytest.mark.slow
def test_equal_policies_are_seldom_told_apart() -> None:
    """Six policies that differ by chance alone: in at most 5 % of boards any is told apart."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(80):
        hard = rng.random(80)
        rows = [[int(np.argmin([*(rng.random(5) > h / 2), False])) for h in hard] for _ in range(6)]
        found = standings(sorted(rows, key=sum, reverse=True), 5)
        wrong += any(s.best > 1 or s.worst < 6 for s in found)
    assert wrong <= 8  # of 80; 4 are expected at most, and more than 8 come once in 50 times


def test_more_entries_need_more_evidence() -> None:
    assert pair_level(2) == pytest.approx(0.95)
    assert pair_level(500) == pytest.approx(1 - 0.05 / 124750)
