"""Gates on runs that are over, against intervals that are computed in other ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from calvin_eval.errors import RunFolderError, UnknownNameError, UsageError
from calvin_eval.results.bounds import clopper_pearson
from calvin_eval.results.card import make_card
from calvin_eval.results.gate import Baseline, decide, decide_run, read_baseline
from calvin_eval.results.gate_spec import Check, GateSpec, parse_gate, parse_tasks
from calvin_eval.results.junit import junit_xml, markdown
from calvin_eval.results.means import difference_bounds, mean_bounds
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.sequential import SequentialGate
from handmade import follow_head, record, write_run

RNG = np.random.default_rng(0)
LENGTHS = RNG.choice(6, size=1000, p=[0.05, 0.08, 0.1, 0.12, 0.15, 0.5]).tolist()
RECORDS = [record(chain, n) for chain, n in enumerate(LENGTHS)]
MEAN = float(np.mean(LENGTHS))


def decided(spec: GateSpec, records: Sequence[ChainRecord] = RECORDS, **options: Any) -> str:
    return decide(spec, records, [r.chain for r in records], **options).outcome


def test_a_gate_is_read_and_written() -> None:
    text = "min-avg-len=3.5,max-drop=0.1,min-task:open_drawer=0.8,confidence=0.99"
    spec = parse_gate(text)
    assert spec == GateSpec(
        min_avg_len=3.5, max_drop=0.1, min_task={"open_drawer": 0.8}, confidence=0.99
    )
    assert str(spec) == text
    assert parse_gate(" min-avg-len = 3 , ").confidence == 0.95
    assert spec.conditions == 3
    assert 1 - spec.level == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a condition"),
        ("confidence=0.9", "expected a condition"),
        ("min-avglen=3", "Did you mean 'min-avg-len'"),
        ("open_drawer=0.8", "unknown gate condition 'open_drawer'"),
        ("min-task:=0.8", "unknown gate condition"),
        ("min-task:TASK", "expected a number for min-task:TASK, found ''"),
        ("min-avg-len=3,min-avg-len=4", "found it twice"),
        ("min-avg-len=high", "expected a number for min-avg-len, found 'high'"),
        ("min-avg-len=nan", "expected a number"),
        ("min-avg-len=5.1", "min-avg-len: expected a number above 0 and up to 5, found 5.1"),
        ("max-drop=-0.1", "max-drop: expected a number from 0"),
        ("min-task:a=80", "min-task a: expected a number above 0 and up to 1, found 80"),
        ("min-avg-len=3,confidence=95", "confidence: expected a number from 0.5 and below 1"),
    ],
)
def test_what_is_no_gate(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_gate(text)


def test_tasks_of_the_command_line() -> None:
    assert parse_tasks(["open_drawer=0.8", "a=1"]) == {"open_drawer": 0.8, "a": 1.0}
    for wrong in (["=0.8"], ["a"], ["a=0.1", "a=0.2"], ["a=x"]):
        with pytest.raises(UsageError, match="expected"):
            parse_tasks(wrong)


def test_the_average_length_is_decided_by_its_interval() -> None:
    (check,) = decide(GateSpec(min_avg_len=3.5), RECORDS, range(1000)).checks
    reference = stats.ttest_1samp(LENGTHS, 0).confidence_interval(0.95)
    assert check.estimate == pytest.approx(MEAN)
    assert (check.low, check.high) == pytest.approx((reference.low, reference.high), abs=0.01)
    low, high = check.low, check.high
    assert decided(GateSpec(min_avg_len=low - 1e-9)) == "pass"
    assert decided(GateSpec(min_avg_len=low + 1e-9)) == "undecided"
    assert decided(GateSpec(min_avg_len=high)) == "undecided"
    assert decided(GateSpec(min_avg_len=high + 1e-9)) == "fail"


def test_few_perfect_chains_prove_little() -> None:
    perfect = [record(chain, 5) for chain in range(5)]
    assert decided(GateSpec(min_avg_len=4.5), perfect) == "undecided"
    assert decided(GateSpec(min_avg_len=4.5), [record(k, 5) for k in range(200)]) == "pass"


def test_the_interval_of_a_task_is_exact() -> None:
    records = [record(chain, n) for chain, n in enumerate([5, 2, 0, 1, 3, 0, 4])]
    (check,) = decide(GateSpec(min_task={"b": 0.5}), records, range(7)).checks
    assert (check.estimate, check.used) == (4 / 5, "5 attempts")
    assert stats.binom.sf(3, 5, check.low) == pytest.approx(0.025)
    assert stats.binom.cdf(4, 5, check.high) == pytest.approx(0.025)
    assert clopper_pearson(0, 0, 0.95) == (0.0, 1.0)
    assert clopper_pearson(3, 3, 0.95)[1] == 1.0


def test_a_task_is_decided() -> None:
    rate = np.mean([n > 0 for n in LENGTHS])
    assert decided(GateSpec(min_task={"a": rate - 0.05})) == "pass"
    assert decided(GateSpec(min_task={"a": rate})) == "undecided"
    assert decided(GateSpec(min_task={"a": rate + 0.03})) == "fail"
    with pytest.raises(UnknownNameError, match="unknown task of the run's chains 'f'"):
        decided(GateSpec(min_task={"f": 0.5}))


def test_conditions_share_the_chance_of_error() -> None:
    one = decide(GateSpec(min_avg_len=3.5), RECORDS, range(1000)).checks[0]
    two = decide(GateSpec(min_avg_len=3.5, min_task={"a": 0.5}), RECORDS, range(1000)).checks[0]
    assert (one.level, two.level) == pytest.approx((0.95, 0.975))
    assert two.low < one.low < one.high < two.high
    mixed = GateSpec(min_avg_len=1.0, min_task={"a": 0.999})
    assert decided(mixed) == "fail", "one broken condition is enough"
    assert decided(GateSpec(min_avg_len=1.0, min_task={"a": 0.95})) == "undecided"


def test_an_error_is_taken_for_the_worst_and_for_the_best() -> None:
    sure = [record(k, 4) for k in range(90)]
    broken = [record(k, 1, error=True) for k in range(90, 100)]
    decision = decide(GateSpec(min_avg_len=3.8, min_task={"b": 0.95}), sure + broken, range(100))
    length, task = decision.checks
    assert decision.outcome == "undecided"
    lows, highs = [4] * 90 + [1] * 10, [4] * 90 + [5] * 10
    assert length.low == mean_bounds([(v, v) for v in lows], (0, 5), 0.975)[0]
    assert length.high == mean_bounds([(v, v) for v in highs], (0, 5), 0.975)[1]
    assert (task.low, task.high) == (clopper_pearson(90, 100, 0.975)[0], 1.0)
    assert length.estimate == 4
    assert "10 chains ended by an error" in decision.remarks[0]


def baseline(lengths: Mapping[int, int] | None, counts: Sequence[int] = (1,) * 6) -> Baseline:
    return Baseline(name="old", facts={}, lengths=lengths, counts=tuple(counts))


def test_a_drop_is_paired_where_the_chains_are_the_same() -> None:
    worse = [record(k, max(n - (k % 4 == 0), 0)) for k, n in enumerate(LENGTHS)]
    steps = [r.length - n for r, n in zip(worse, LENGTHS, strict=True)]
    old = baseline(dict(enumerate(LENGTHS)))
    (check,) = decide(GateSpec(max_drop=0.1), worse, range(1000), old).checks
    reference = stats.ttest_1samp(steps, 0).confidence_interval(0.95)
    assert check.name == "average length less old's"
    assert check.estimate == pytest.approx(np.mean(steps))
    assert (check.low, check.high) == pytest.approx((reference.low, reference.high), abs=0.02)
    assert check.outcome == "fail"
    assert decided(GateSpec(max_drop=0.4), worse, baseline=old) == "pass"
    assert decided(GateSpec(max_drop=-np.mean(steps)), worse, baseline=old) == "undecided"


@pytest.mark.slow
def test_a_drop_is_unpaired_where_they_are_not() -> None:
    counts = np.bincount(LENGTHS).tolist()
    worse = RNG.choice(6, size=800, p=[0.1, 0.15, 0.15, 0.1, 0.1, 0.4]).tolist()
    records = [record(k, n) for k, n in enumerate(worse)]
    reference = stats.ttest_ind(worse, LENGTHS, equal_var=False).confidence_interval(0.95)
    for old in (baseline(None, counts), baseline({k + 5000: 0 for k in range(9)}, counts)):
        (check,) = decide(GateSpec(max_drop=0.1), records, range(800), old).checks
        assert (check.low, check.high) == pytest.approx((reference.low, reference.high), abs=0.02)
        assert check.estimate == pytest.approx(np.mean(worse) - MEAN)
        assert (check.used, check.method) == ("800 and 1000 chains", "Gaffke, unpaired")
        assert check.outcome == "fail"
    assert difference_bounds([(5, 5)], [0], 5, 0.95)[1] == 5


def test_a_drop_needs_a_baseline() -> None:
    with pytest.raises(UsageError, match="expected a baseline for max-drop"):
        decided(GateSpec(max_drop=0.1))


def test_missing_chains_call_for_intervals_that_hold_at_every_moment() -> None:
    spec = GateSpec(min_avg_len=3.0)
    some = [r for r in RECORDS[:400] if r.chain != 300]
    decision = decide(spec, some[::-1], range(1000))
    live = SequentialGate(spec, range(1000))
    for chain in RECORDS[:300]:
        live.add(chain)
    assert decision.sequential
    assert decision.checks == live.state().checks
    assert decision.used == live.state().used <= 300
    assert "601 of 1000 chains are missing" in decision.remarks[0]
    assert decision.outcome == "pass"
    near = decide(GateSpec(min_avg_len=MEAN), RECORDS[:300], range(1000))
    assert (near.outcome, near.used) == ("undecided", 300)


@pytest.mark.slow
def test_a_run_folder_with_baselines(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", RECORDS)
    bad = write_run(tmp_path / "bad", [record(k, max(n - 1, 0)) for k, n in enumerate(LENGTHS)])
    (tmp_path / "card.json").write_text(json.dumps(make_card(good).to_json()))
    spec = GateSpec(max_drop=0.2)
    for path in (good, tmp_path / "card.json"):
        assert decide_run(bad, spec, read_baseline(path)).outcome == "fail"
        assert decide_run(good, spec, read_baseline(path)).outcome == "pass"
    paired = decide_run(bad, spec, read_baseline(good)).checks[0]
    unpaired = decide_run(bad, spec, read_baseline(tmp_path / "card.json")).checks[0]
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)


@pytest.mark.slow
def test_a_baseline_of_another_protocol_is_refused_unless_forced(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", RECORDS)
    spec = GateSpec(max_drop=0.5)
    head = read_baseline(write_run(tmp_path / "head", RECORDS, change=follow_head))
    with pytest.raises(RunFolderError, match=r"baseline head .* revision: pinned and head"):
        decide_run(run, spec, head)
    forced = decide_run(run, spec, head, force=True)
    assert "Forced: the baseline head differs" in forced.remarks[0]
    assert "paired" in forced.checks[0].method
    other = read_baseline(
        write_run(tmp_path / "dev", RECORDS, change=lambda h: h["chains"].update(sha256="d" * 64))
    )
    assert "unpaired" in decide_run(run, spec, other, force=True).checks[0].method


def test_chains_longer_than_calvins_are_refused() -> None:
    long = record(0, 6, tasks=("a", "b", "c", "d", "e", "f"))
    with pytest.raises(UsageError, match="up to 5 tasks, found 6 in chain 0"):
        decided(GateSpec(min_avg_len=3), [long])
    with pytest.raises(UsageError, match="up to 5 tasks, found 6 in chain 0"):
        SequentialGate(GateSpec(min_avg_len=3), [0]).add(long)


def test_a_run_without_records_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [], planned=range(5))
    with pytest.raises(RunFolderError, match="expected a run with records"):
        decide_run(run, GateSpec(min_avg_len=3))
    with pytest.raises(RunFolderError, match="baseline with completed chains"):
        read_baseline(run)


@pytest.mark.slow
def test_false_decisions_stay_below_what_is_stated() -> None:
    """At the threshold itself every decision is a false one."""
    rng = np.random.default_rng(12)
    chances = [0.1, 0.1, 0.1, 0.1, 0.1, 0.5]
    threshold = float(np.dot(chances, range(6)))
    false = 0
    for values in rng.choice(6, size=(400, 200), p=chances):
        low, high = mean_bounds([(v, v) for v in values.tolist()], (0, 5), 0.95)
        check = Check(
            name="average length", threshold=threshold, estimate=None, low=low, high=high,
            level=0.95, used="", method="",
        )  # fmt: skip
        false += check.outcome != "undecided"
    assert 0.01 < false / 400 <= 0.05 + 2 * 0.011


@pytest.mark.parametrize("undecided", ["pass", "fail", "code"])
def test_junit_says_what_happened(undecided: Any) -> None:
    spec = GateSpec(min_avg_len=4.9, min_task={"a": 0.5, "b": 0.91})
    decision = decide(spec, RECORDS, range(1000))
    assert [check.outcome for check in decision.checks] == ["fail", "pass", "undecided"]
    root = ElementTree.fromstring(junit_xml(decision, "r\x00un <1>", undecided).encode())
    suite = root.find("testsuite")
    assert suite is not None
    skipped = int(undecided == "pass")
    found = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert found == {
        "tests": "3", "failures": str(2 - skipped), "errors": "0", "skipped": str(skipped),
    }  # fmt: skip
    length, good, open_ = suite.findall("testcase")
    failure = length.find("failure")
    assert failure is not None
    assert "expected at least 4.9, found" in (failure.get("message") or "")
    assert good.find("failure") is None
    assert open_.find("skipped" if skipped else "failure") is not None
    run = suite.find("properties/property[@name='run']")
    assert run is not None
    assert run.get("value") == "r\ufffdun <1>"


def test_markdown_states_the_decision_with_its_interval() -> None:
    decision = decide(GateSpec(min_avg_len=1), RECORDS, range(1000))
    text = markdown(decision, "a|b")
    check = decision.checks[0]
    assert "gate: pass" in text
    assert f"| average length | 1 | {MEAN:.3f} | {check.low:.3f} to {check.high:.3f} (95 %)" in text
    assert "a\\|b" in text
    near = decide(GateSpec(min_avg_len=MEAN), RECORDS, range(1000))
    assert "gate: undecided\n" in markdown(near, "run")
    assert "gate: undecided (fail)\n" in markdown(near, "run", "fail")
    assert near.to_json()["outcome"] == "undecided"
    assert str(near).startswith("gate: undecided after 1000 of 1000 chains. average length:")
