"""Mean and spread over seeds."""

from __future__ import annotations

import json

import pytest

from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.seeds import spread_of_seeds
from handmade import record


def summary(*lengths: int, planned: int | None = None) -> Summary:
    records = [record(chain, n) for chain, n in enumerate(lengths)]
    return summarize(records, len(lengths) if planned is None else planned)


def test_by_hand() -> None:
    found = spread_of_seeds({7: summary(1, 2), 3: summary(5, 5), 5: summary(3, 3)})
    assert (found.seeds, found.left_out) == ((3, 5, 7), ())
    length = found.average_length
    assert length is not None
    assert (length.mean, length.low, length.high) == (pytest.approx(9.5 / 3), 1.5, 5)
    assert length.deviation == pytest.approx(1.7559422)
    assert found.success_rates[2].mean == pytest.approx((0.5 + 1 + 1) / 3)
    assert json.loads(json.dumps(found.to_json()))["success_rates"]["5"]["high"] == 1


def test_runs_that_are_not_complete_are_left_out() -> None:
    found = spread_of_seeds({0: summary(1, 2), 1: summary(4, planned=2), 2: None})
    assert (found.seeds, found.left_out) == ((0,), (1, 2))
    assert found.average_length is not None
    assert found.average_length.deviation is None
    nothing = spread_of_seeds({1: None})
    assert nothing.average_length is None
    assert nothing.success_rates == {}
