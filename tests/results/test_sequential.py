"""The sequential test: never wrong more often than it says, however often one looks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from calvin_eval.errors import UsageError
from calvin_eval.results.gate_spec import GateSpec
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.sequential import ConfidenceSequence, SequentialGate, log_capital

TASKS = ("a", "b", "c", "d", "e")
CHAINS, RUNS = 1000, 1000


def record(chain: int, length: int, *, error: bool = False) -> ChainRecord:
    tried = TASKS[: length if error else min(length + 1, 5)]
    subtasks = tuple(
        SubtaskRecord(
            task=task, instruction=f"do {task}", success=place < length, steps=9, seconds=0.1,
            state_hash="00",
        )
        for place, task in enumerate(tried)
    )  # fmt: skip
    return ChainRecord(
        chain=chain, initial_state={"led": 0}, tasks=TASKS, subtasks=subtasks,
        status="error" if error else "completed", error="broke" if error else None,
    )  # fmt: skip


def lengths_with_mean(mean: float) -> np.ndarray:
    """Chances of lengths 0..5 where every task succeeds with the same chance."""
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        chances = np.array([*((1 - q) * q**k for k in range(5)), q**5])
        low, high = (q, high) if chances @ np.arange(6) < mean else (low, q)
    return chances


def outcomes(data: np.ndarray, bottom: int, top: int, threshold: float) -> tuple[float, float, int]:
    """Shares of runs that pass and fail, looked at after every chain, and the median stop."""
    passes = fails = 0
    stops = []
    mean = (threshold - bottom) / (top - bottom)
    for run in data:  # shape (chains,); all its moments at once
        counts = np.cumsum(run[:, None] == np.arange(bottom, top + 1), axis=0, dtype=float)
        above = log_capital(counts, mean) >= math.log(2 / 0.05)
        below = log_capital(counts[:, ::-1], 1 - mean) >= math.log(2 / 0.05)
        first = np.flatnonzero(above | below)
        if first.size:
            passes += bool(above[first[0]])
            fails += bool(below[first[0]])
        stops.append(first[0] + 1 if first.size else len(run))
    return passes / len(data), fails / len(data), int(np.median(stops))


AT_THE_BOUNDARY = {
    "a plain policy": lengths_with_mean(3.5),
    "all or nothing": np.array([0.3, 0, 0, 0, 0, 0.7]),
    "hardly any spread": np.array([0, 0, 0, 0.5, 0.5, 0]),
    "a rare disaster": np.array([0.125, 0, 0, 0, 0.875, 0]),
    "a rare triumph": np.array([0, 0, 0, 0.75, 0, 0.25]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_THE_BOUNDARY)
def test_looking_after_every_chain_errs_no_more_often_than_stated(name: str) -> None:
    chances = AT_THE_BOUNDARY[name]
    assert chances @ np.arange(6) == pytest.approx(3.5)
    data = np.random.default_rng(7).choice(6, size=(RUNS, CHAINS), p=chances)
    passes, fails, _ = outcomes(data, 0, 5, 3.5)
    # On the boundary nothing should be decided: every decision counts as a false one.
    assert passes + fails <= 0.05
    print(f"{name}: false passes {passes:.3f}, false failures {fails:.3f}")


def test_peeking_at_students_interval_would_err_far_more_often() -> None:
    """Without this, the simulation above might be unable to find anything wrong."""
    data = np.random.default_rng(7).choice(6, size=(RUNS, 500), p=AT_THE_BOUNDARY["a plain policy"])
    n = np.arange(1, 501)
    mean = np.cumsum(data, axis=1) / n
    spread = np.cumsum(data**2, axis=1) / n - mean**2
    beyond = np.abs(mean - 3.5) > 1.96 * np.sqrt(spread / n)
    assert (beyond[:, 20:].any(axis=1)).mean() > 0.25


@pytest.mark.slow
def test_paired_differences_and_rates_err_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(3)
    steps = rng.choice([-3, -1, 0, 1, 2], size=(RUNS, CHAINS), p=[0.05, 0.1, 0.65, 0.1, 0.1])
    mean = np.dot([-3, -1, 0, 1, 2], [0.05, 0.1, 0.65, 0.1, 0.1])
    passes, fails, _ = outcomes(steps, -5, 5, mean)
    assert passes + fails <= 0.05
    rates = rng.binomial(1, 0.8, size=(RUNS, CHAINS))
    passes, fails, _ = outcomes(rates, 0, 1, 0.8)
    assert passes + fails <= 0.05


@pytest.mark.parametrize(
    ("mean", "most"), [(2.0, 40), (2.75, 120), (3.0, 220), (4.0, 220), (4.5, 60)]
)
def test_most_chains_are_saved_where_the_answer_is_clear(mean: float, most: int) -> None:
    data = np.random.default_rng(5).choice(6, size=(200, CHAINS), p=lengths_with_mean(mean))
    passes, fails, stop = outcomes(data, 0, 5, 3.5)
    print(f"mean {mean} against 3.5: {stop} of {CHAINS} chains in the median")
    assert stop <= most
    assert (passes if mean > 3.5 else fails) > 0.95


def test_the_simulation_looks_at_what_the_gate_looks_at() -> None:
    rng = np.random.default_rng(11)
    for mean in (2.5, 3.5, 4.5):
        run = rng.choice(6, size=150, p=lengths_with_mean(mean))
        sequence, sides = ConfidenceSequence(0, 5, 0.95), []
        for value in run.tolist():
            sequence.add(value)
            sides.append(sequence.side(3.5))
        stop = next((k for k, side in enumerate(sides, 1) if side), len(run))
        passes, fails, simulated = outcomes(run[None], 0, 5, 3.5)
        assert (simulated, passes - fails) == (stop, sides[stop - 1])


def exact_chance_of_ever_passing(p: float, threshold: float, steps: int) -> float:
    """By going through all 2^steps histories of successes and failures."""
    total = 0.0
    for history in itertools.product((0, 1), repeat=steps):
        sequence = ConfidenceSequence(0, 1, 0.5)
        for value in history:
            sequence.add(value)
            if sequence.side(threshold) > 0:
                total += p ** sum(history) * (1 - p) ** (steps - sum(history))
                break
    return total


@pytest.mark.slow
def test_the_chance_of_a_false_pass_counted_over_all_histories() -> None:
    chance = exact_chance_of_ever_passing(0.5, 0.5, 11)
    assert 0.02 < chance <= 0.25  # half of 1 - 0.5 to each side; and the bound is not idle


def test_the_interval_is_where_the_capital_reaches_its_limit() -> None:
    values = [5, 5, 3, 0, 5, 4, 2, 5, 5, 1] * 8
    sequence = ConfidenceSequence(0, 5, 0.9)
    for value in values:
        sequence.add(value)
    low, high = sequence.interval()
    shares = np.geomspace(0.02, 0.95, 24)
    x = np.array(values)[:, None] / 5
    more = np.prod(1 - shares + shares * x / (low / 5), axis=0).mean()
    less = np.prod(1 - shares + shares * (1 - x) / (1 - high / 5), axis=0).mean()
    assert more == pytest.approx(20, rel=1e-4)
    assert less == pytest.approx(20, rel=1e-4)
    assert low < sequence.estimate == 3.5 < high  # type: ignore[operator]
    assert sequence.side(low - 1e-6) == 1
    assert sequence.side(low + 1e-6) == 0
    assert sequence.side(high - 1e-6) == 0
    assert sequence.side(high + 1e-6) == -1


def test_an_interval_without_data_is_everything() -> None:
    assert ConfidenceSequence(-5, 5, 0.95).interval() == pytest.approx((-5, 5), abs=1e-6)


def test_a_perfect_start_does_not_settle_the_matter() -> None:
    sequence = ConfidenceSequence(0, 5, 0.95)
    for _ in range(5):
        sequence.add(5)
    low, high = sequence.interval()
    # Five chains are all 5 with a chance of 2.5 % where they are 5 with 0.478 and else 0.
    assert low < 5 * 0.025 ** (1 / 5)
    assert high == pytest.approx(5)


def test_an_error_widens_both_sides() -> None:
    whole, broken = ConfidenceSequence(0, 5, 0.95), ConfidenceSequence(0, 5, 0.95)
    for sequence in (whole, broken):
        for value in (3, 4, 2) * 30:
            sequence.add(value)
    whole.add(3)
    broken.add(1, 5)
    assert broken.interval()[0] < whole.interval()[0]
    assert broken.interval()[1] > whole.interval()[1]


def test_a_value_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 5, found 6"):
        ConfidenceSequence(0, 5, 0.95).add(6)


@pytest.mark.parametrize("seed", range(4))
def test_the_decision_is_the_same_in_whatever_order_chains_finish(seed: int) -> None:
    rng = np.random.default_rng(1)
    planned = rng.permutation(400).tolist()  # a list need not be in order of the ids
    lengths = dict(zip(planned, rng.choice(6, size=400, p=lengths_with_mean(4.2)), strict=True))
    spec = GateSpec(min_avg_len=3.5, min_task={"a": 0.5})
    in_order = SequentialGate(spec, planned)
    for chain in planned:
        if in_order.add(record(chain, int(lengths[chain]))):
            break
    expected = in_order.decision
    assert expected is not None
    assert expected.outcome == "pass"
    assert 20 < expected.used < 200
    gate = SequentialGate(spec, planned)
    # Eight workers: a chain may overtake those that began up to eight places before it.
    order = sorted(range(400), key=lambda k: k + 8 * np.random.default_rng([seed, k]).random())
    found = [gate.add(record(planned[k], int(lengths[planned[k]]))) for k in order]
    assert found[-1] == expected
    assert next(k for k, decision in enumerate(found) if decision) >= expected.used - 1


def test_a_hole_holds_everything_behind_it() -> None:
    gate = SequentialGate(GateSpec(min_avg_len=3.5), range(200))
    for chain in range(1, 200):
        assert gate.add(record(chain, 5)) is None
    assert gate.state().used == 0
    decision = gate.add(record(0, 0))
    assert decision is not None
    assert decision.outcome == "pass"
    assert decision.used < 30


def test_a_drop_is_measured_on_the_same_chains() -> None:
    rng = np.random.default_rng(2)
    base = rng.choice(6, size=600, p=lengths_with_mean(3.0)).tolist()
    gate = SequentialGate(GateSpec(max_drop=0.1), range(600), dict(enumerate(base)))
    for chain, length in enumerate(base):
        worse = max(length - 1, 0) if chain % 2 else length  # about 0.42 less
        if gate.add(record(chain, worse)):
            break
    assert gate.decision is not None
    assert gate.decision.outcome == "fail"
    (check,) = gate.decision.checks
    assert check.high < -0.1
    steps = [max(x - 1, 0) - x if k % 2 else 0 for k, x in enumerate(base[: gate.decision.used])]
    assert check.estimate == pytest.approx(np.mean(steps))


def test_one_broken_condition_fails_and_all_must_hold_to_pass() -> None:
    spec = GateSpec(min_avg_len=1.5, min_task={"c": 0.9})
    gate = SequentialGate(spec, range(500))
    for chain in range(500):
        if gate.add(record(chain, 2)):  # every chain fails its third task
            break
    assert gate.decision is not None
    assert gate.decision.outcome == "fail"
    assert gate.decision.checks[1].outcome == "fail"
    assert gate.decision.checks[0].outcome != "fail"
    assert all(check.level == pytest.approx(0.975) for check in gate.decision.checks)


def test_what_was_decided_stays_decided() -> None:
    spec = GateSpec(min_avg_len=2.0, min_task={"e": 0.99})
    gate = SequentialGate(spec, range(300))
    for chain in range(60):
        gate.add(record(chain, 5))
    early = gate.state().checks[0]
    assert early.outcome == "pass"
    for chain in range(60, 120):
        gate.add(record(chain, 0))
    assert gate.state().checks[0] == early


def test_an_error_is_neither_a_failure_nor_a_success() -> None:
    gate = SequentialGate(GateSpec(min_avg_len=3.5, min_task={"b": 0.5}), range(300))
    for chain in range(300):
        assert gate.add(record(chain, 1, error=True)) is None
    length, task = gate.state().checks
    assert (length.low, length.high) == pytest.approx((1, 5), abs=0.2)
    assert (task.low, task.high) == pytest.approx((0, 1), abs=1e-3)
    assert length.estimate is None


def test_wrong_use_is_named() -> None:
    gate = SequentialGate(GateSpec(min_avg_len=3.5), (4, 2))
    gate.add(record(4, 5))
    for chain in (4, 3):
        with pytest.raises(UsageError, match=f"chain {chain} again or unplanned"):
            gate.add(record(chain, 5))
    with pytest.raises(UsageError, match="expected a baseline run"):
        SequentialGate(GateSpec(max_drop=0.1), (4, 2), {7: 3})


def test_the_outcome_agrees_with_the_interval_to_the_last_bit() -> None:
    for seed in range(20):
        gate = SequentialGate(GateSpec(min_avg_len=3.5), range(CHAINS))
        values = np.random.default_rng(seed).choice(6, size=CHAINS, p=lengths_with_mean(2.5))
        for chain, value in enumerate(values.tolist()):
            if decision := gate.add(record(chain, value)):
                break
        assert decision is not None
        assert decision.outcome == "fail"
        assert decision.checks[0].high < 3.5
