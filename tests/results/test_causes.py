"""Causes of two runs side by side, and gates on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from made_diagnosis import made_diagnosis, made_failure

from calvin_eval.errors import RunFolderError, UnknownNameError, UsageError
from calvin_eval.results.causes import cause_contrasts
from calvin_eval.results.compare import compare_runs
from calvin_eval.results.compare_html import comparison_html
from calvin_eval.results.diagnosis import DIAGNOSIS
from calvin_eval.results.gate import decide_run
from calvin_eval.results.gate_spec import GateSpec, parse_causes
from calvin_eval.results.store import RunFolder
from handmade import record, write_run

LOST, NEAR, STALLED = "grasped and lost", "nearly there", "stalled"


def diagnosed(path: Path, causes: Mapping[int, str | None], planned: int | None = None) -> Path:
    """A run whose chains failed at once by these causes, or did all five tasks."""
    records = [record(chain, 0 if cause else 5) for chain, cause in causes.items()]
    # A chain of five tasks has no sixth subtask.
    write_run(path, records, planned=range(len(causes) if planned is None else planned))
    failures = [made_failure(chain, cause) for chain, cause in causes.items() if cause]
    lengths = {str(chain): 0 if cause else 5 for chain, cause in causes.items()}
    found = made_diagnosis(failures, records, lengths)
    RunFolder.open(path).write_json(DIAGNOSIS, found.to_json())
    return path


def test_what_was_cured_and_what_was_broken() -> None:
    first = {0: LOST, 1: LOST, 2: LOST, 3: None, 4: NEAR, 5: LOST, 6: LOST, 7: LOST}
    other = {0: None, 1: NEAR, 2: LOST, 3: LOST, 4: NEAR, 5: None, 6: None, 8: LOST}
    lost, near = cause_contrasts(first, other, range(9))
    assert (lost.cause, lost.first, lost.other, lost.common) == (LOST, 5, 2, 7)
    assert (lost.cured, lost.broken) == (4, 1)
    assert lost.p == pytest.approx(0.375)  # 5 or fewer of 5, twice the tail of at most one
    assert (near.cause, near.cured, near.broken, near.p) == (NEAR, 0, 1, 1.0)
    assert lost.p_holm == pytest.approx(0.75)


def test_compare_has_causes_where_both_runs_were_diagnosed(tmp_path: Path) -> None:
    old = diagnosed(tmp_path / "old", {0: LOST, 1: LOST, 2: None})
    new = diagnosed(tmp_path / "new", {0: None, 1: STALLED, 2: None})
    comparison = compare_runs([old, new])
    (pair,) = comparison.pairs
    assert [(row.cause, row.cured, row.broken) for row in pair.causes] == [
        (LOST, 2, 0), (STALLED, 0, 1),
    ]  # fmt: skip
    assert [row["cause"] for row in pair.to_json()["causes"]] == [LOST, STALLED]
    assert "Causes of failures" in comparison_html(comparison, tmp_path)
    (new / DIAGNOSIS).unlink()
    (pair,) = compare_runs([old, new]).pairs
    assert pair.causes == ()
    assert "causes" not in pair.to_json()


def test_a_diagnosis_of_other_chains_is_left_out(tmp_path: Path) -> None:
    old = diagnosed(tmp_path / "old", {0: LOST, 1: LOST})
    new = diagnosed(tmp_path / "new", {0: LOST, 1: LOST})
    document = RunFolder.open(new).read_json(DIAGNOSIS)
    RunFolder.open(new).write_json(DIAGNOSIS, {**document, "records_sha256": "0" * 64})
    (pair,) = compare_runs([old, new]).pairs
    assert pair.causes == ()
    assert any("Causes are left out" in remark for remark in pair.remarks)


def test_a_gate_on_a_cause(tmp_path: Path) -> None:
    often = {chain: LOST if chain % 2 else None for chain in range(200)}
    run = diagnosed(tmp_path / "run", often)
    assert decide_run(run, GateSpec(max_cause={LOST: 0.1})).outcome == "fail"
    assert decide_run(run, GateSpec(max_cause={LOST: 0.7})).outcome == "pass"
    assert decide_run(run, GateSpec(max_cause={LOST: 0.5})).outcome == "undecided"
    assert decide_run(run, GateSpec(max_cause={NEAR: 0.1})).outcome == "pass"
    (check,) = decide_run(run, GateSpec(max_cause={LOST: 0.7})).checks
    assert check.estimate == 0.5
    assert LOST in check.name


def test_what_a_gate_on_a_cause_needs(tmp_path: Path) -> None:
    run = diagnosed(tmp_path / "run", {0: LOST, 1: None})
    with pytest.raises(UnknownNameError, match=LOST):
        decide_run(run, GateSpec(max_cause={"grasped and lots": 0.1}))
    (run / DIAGNOSIS).unlink()
    with pytest.raises(RunFolderError, match="calvin-eval diagnose"):
        decide_run(run, GateSpec(max_cause={LOST: 0.1}))
    part = diagnosed(tmp_path / "part", {0: LOST, 1: None}, planned=9)
    with pytest.raises(UsageError, match="complete run"):
        decide_run(part, GateSpec(max_cause={LOST: 0.1}))


def test_conditions_as_they_are_written() -> None:
    assert parse_causes(["grasped and lost=0.1"]) == {LOST: 0.1}
    for text in ("grasped and lost", "=0.1", "stalled=often"):
        with pytest.raises(UsageError):
            parse_causes([text])
    with pytest.raises(UsageError, match="max-cause stalled"):
        GateSpec(max_cause={STALLED: 1.5})
