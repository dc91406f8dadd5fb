from __future__ import annotations

import json
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from calvin_eval.results.intervals import wilson
from calvin_eval.results.metrics import (
    Count,
    failure_positions,
    seconds_per_step,
    steps_to_success,
    summarize,
    transition_counts,
)
from calvin_eval.results.schema import ChainRecord, SubtaskRecord

NAMES = tuple("abcdefgh")


def chain(number: int, length: int, planned: int = 5, error: bool = False) -> ChainRecord:
    """A chain of that many tasks with `length` successes; tasks depend on the number."""
    tasks = tuple(NAMES[(number + i) % len(NAMES)] for i in range(planned))
    attempted = length if error else min(length + 1, planned)
    subtasks = tuple(
        SubtaskRecord(
            task=task,
            instruction=task,
            success=i < length,
            steps=10,
            seconds=0.5,
            state_hash="0",
        )
        for i, task in enumerate(tasks[:attempted])
    )
    return ChainRecord(
        chain=number,
        initial_state={},
        tasks=tasks,
        subtasks=subtasks,
        status="error" if error else "completed",
        error="boom" if error else None,
    )


@st.composite
def runs(draw: st.DrawFn) -> list[ChainRecord]:
    shapes = draw(
        st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7), st.booleans()), max_size=25)
    )
    return [
        chain(number, min(length, planned), planned, error)
        for number, (planned, length, error) in enumerate(shapes)
    ]


@pytest.mark.slow
@settings(max_examples=150)
@given(runs(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_metrics_equal_a_recount(
    records: list[ChainRecord], missing: int, shuffler: random.Random
) -> None:
    planned = len(records) + missing
    summary = summarize(records, planned)

    reached: dict[int, list[bool]] = defaultdict(list)
    in_chain: dict[int, list[bool]] = defaultdict(list)
    tasks: dict[str, list[bool]] = defaultdict(list)
    lengths: list[int] = []
    for record in records:
        if record.error is not None:
            continue
        outcomes = [subtask.success for subtask in record.subtasks]
        lengths.append(outcomes.index(False) if False in outcomes else len(outcomes))
        for i in range(1, len(record.tasks) + 1):
            in_chain[i].append(lengths[-1] >= i)
        for i, subtask in enumerate(record.subtasks, 1):
            reached[i].append(subtask.success)
            tasks[subtask.task].append(subtask.success)

    assert summary.completed == len(lengths)
    assert summary.errors == len(records) - len(lengths)
    assert summary.missing == missing
    assert summary.complete == (len(lengths) == planned and planned > 0)
    rates = {i: sum(done) / len(done) for i, done in in_chain.items()} or None
    average = pytest.approx(np.mean(lengths)) if lengths else None
    assert summary.partial_success_rates == rates
    assert summary.partial_average_length == average
    assert summary.success_rates == (rates if summary.complete else None)
    assert summary.average_length == (average if summary.complete else None)
    assert {t: (c.success, c.total) for t, c in summary.per_task.items()} == {
        t: (sum(done), len(done)) for t, done in tasks.items()
    }
    assert {i: (c.success, c.total) for i, c in summary.per_position.items() if c.total} == {
        i: (sum(done), len(done)) for i, done in reached.items()
    }
    shuffled = list(records)
    shuffler.shuffle(shuffled)
    assert summarize(shuffled, planned) == summary


def test_five_chains_by_hand() -> None:
    summary = summarize([chain(i, length) for i, length in enumerate([5, 3, 0, 1, 5])], 5)
    assert summary.complete
    assert summary.success_rates == {1: 0.8, 2: 0.6, 3: 0.6, 4: 0.4, 5: 0.4}
    assert summary.average_length == 2.8
    # Chain 1 (b c d e f) did three tasks: e is its failed attempt, f was never tried.
    assert summary.per_position[4] == Count(success=2, total=3)
    assert summary.per_task["f"].total == 1
    assert sum(count.total for count in summary.per_task.values()) == 5 + 4 + 1 + 2 + 5


def test_the_average_is_the_sum_of_the_rates() -> None:
    rng = np.random.default_rng(0)
    summary = summarize([chain(i, int(n)) for i, n in enumerate(rng.integers(0, 6, 200))], 200)
    assert summary.success_rates is not None
    assert summary.average_length == pytest.approx(sum(summary.success_rates.values()))


@pytest.mark.parametrize("planned", [0, 10])
def test_no_chains_give_no_numbers(planned: int) -> None:
    summary = summarize([], planned)
    assert not summary.complete
    assert summary.missing == planned
    assert summary.success_rates is None
    assert summary.partial_success_rates is None
    assert summary.partial_average_length is None
    assert summary.partial_average_length_interval is None
    assert dict(summary.per_task) == {}
    json.dumps(summary.to_json(), allow_nan=False)


def test_an_error_withholds_the_headline_and_lowers_nothing() -> None:
    summary = summarize([chain(0, 5), chain(1, 2, error=True)], 2)
    assert not summary.complete
    assert (summary.completed, summary.errors, summary.missing) == (1, 1, 0)
    assert summary.success_rates is None
    assert summary.average_length_interval is None
    assert summary.partial_average_length == 5
    assert all(count.rate == 1 for count in summary.per_task.values())


def test_chains_of_different_lengths_are_judged_by_what_they_have() -> None:
    summary = summarize([chain(0, 2, planned=2), chain(1, 3, planned=3)], 2)
    assert summary.success_rates == {1: 1.0, 2: 1.0, 3: 1.0}
    assert summary.average_length == 2.5


def test_impossible_runs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3\] more than once"):
        summarize([chain(3, 1), chain(3, 2)], 5)
    with pytest.raises(ValueError, match="at most 1 planned chains, found 2"):
        summarize([chain(3, 1), chain(4, 2)], 1)


def test_summary_as_json() -> None:
    data = json.loads(json.dumps(summarize([chain(0, 4)], 1).to_json(), allow_nan=False))
    assert data["success_rates"] == {"1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0, "5": 0.0}
    assert data["per_position"]["5"] == {"success": 0, "total": 1}
    assert set(data["average_length_interval"]) == {"low", "high"}


@given(st.integers(1, 2000), st.data())
def test_wilson_agrees_with_scipy(total: int, data: st.DataObject) -> None:
    success = data.draw(st.integers(0, total))
    ours = wilson(success, total)
    theirs = stats.binomtest(success, total).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)
    assert 0 <= ours.low <= success / total <= ours.high <= 1


def test_wilson_refuses_nonsense() -> None:
    for success, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="expected 0 <= success"):
            wilson(success, total)


def timed(number: int, outcomes: list[tuple[str, bool, int]], pace: float = 0.5) -> ChainRecord:
    """A completed chain of these tasks, successes and steps."""
    return ChainRecord(
        chain=number,
        initial_state={},
        tasks=tuple(task for task, _, _ in outcomes),
        subtasks=tuple(
            SubtaskRecord(
                task=task,
                instruction=task,
                success=success,
                steps=steps,
                seconds=pace * steps,
                state_hash="0",
            )
            for task, success, steps in outcomes
        ),
        status="completed",
    )


def test_steps_to_success_count_successes_only() -> None:
    records = [
        timed(0, [("a", True, 10), ("b", False, 360)]),
        timed(1, [("a", True, 40), ("b", True, 7)]),
        timed(2, [("a", True, 13)]),
        timed(3, [("c", False, 360)]),
        chain(4, 2, error=True),
    ]
    steps = steps_to_success(records)
    assert list(steps) == ["a", "b"]
    assert (steps["a"].count, steps["a"].median, steps["a"].mean) == (3, 13, 21)
    assert 10 <= steps["a"].mean_interval.low < 21 < steps["a"].mean_interval.high <= 40
    assert (steps["b"].mean_interval.low, steps["b"].mean_interval.high) == (7, 7)
    assert steps_to_success(records[::-1]) == steps
    assert steps_to_success(records[:3])["a"] == steps["a"]  # other tasks do not matter


def test_the_interval_of_mean_steps_is_about_right() -> None:
    values = np.random.default_rng(3).integers(20, 200, 300)
    steps = steps_to_success([timed(i, [("a", True, int(v))]) for i, v in enumerate(values)])["a"]
    error = 1.96 * np.std(values) / np.sqrt(len(values))
    assert steps.mean_interval.low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert steps.mean_interval.high == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_failure_positions_by_hand() -> None:
    records = [chain(i, length) for i, length in enumerate([5, 3, 0, 0, 4])]
    records.append(chain(9, 1, error=True))
    assert failure_positions(records) == {1: 2, 2: 0, 3: 0, 4: 1, 5: 1}
    assert failure_positions([]) == {}


def test_transitions_by_hand() -> None:
    records = [
        timed(0, [("a", True, 1), ("b", False, 1)]),
        timed(1, [("a", True, 1), ("b", True, 1), ("a", False, 1)]),
        chain(2, 3, error=True),
    ]
    assert transition_counts(records) == {
        (None, "a"): Count(success=2, total=2),
        ("a", "b"): Count(success=1, total=2),
        ("b", "a"): Count(success=0, total=1),
    }


def test_seconds_per_step_weigh_chains_by_their_steps() -> None:
    records = [timed(0, [("a", True, 100)], pace=0.5), timed(1, [("a", True, 300)], pace=0.1)]
    mean = seconds_per_step(records)
    assert mean is not None
    assert mean.value == pytest.approx(80 / 400)
    assert (mean.interval.low, mean.interval.high) == (pytest.approx(0.1), pytest.approx(0.5))
    assert seconds_per_step(records[::-1]) == mean
    assert seconds_per_step([]) is None
    assert seconds_per_step([timed(0, [("a", True, 0)])]) is None
