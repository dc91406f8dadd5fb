from __future__ import annotations

import json

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.upstream import upstream_results


def chain(number: int, tasks: str, length: int, error: str | None = None) -> ChainRecord:
    attempted = tasks[: length + (error is None)]
    return ChainRecord(
        chain=number,
        initial_state={},
        tasks=tuple(tasks),
        subtasks=tuple(
            SubtaskRecord(
                task=task, instruction=task, success=i < length, steps=1, seconds=0, state_hash="0"
            )
            for i, task in enumerate(attempted)
        ),
        status="completed" if error is None else "error",
        error=error,
    )


def test_shape_and_numbers() -> None:
    records = [chain(0, "abcde", 5), chain(1, "bcdea", 2), chain(2, "abcde", 3, "lost a worker")]
    expected = {
        "null": {
            "avg_seq_len": 3.5,
            "chain_sr": {"1": 1.0, "2": 1.0, "3": 0.5, "4": 0.5, "5": 0.5},
            "task_info": {
                "a": {"success": 1, "total": 1},
                "b": {"success": 2, "total": 2},
                "c": {"success": 2, "total": 2},
                "d": {"success": 1, "total": 2},
                "e": {"success": 1, "total": 1},
            },
        }
    }
    assert upstream_results(records) == expected
    assert json.loads(json.dumps(upstream_results(records))) == expected
    assert list(upstream_results(records, epoch="12")) == ["12"]


def test_short_chains_still_have_five_rates() -> None:
    rates = upstream_results([chain(0, "ab", 2)])["null"]["chain_sr"]
    assert rates == {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0, "5": 0.0}


def test_no_completed_chain_no_file() -> None:
    with pytest.raises(RunFolderError, match="at least one completed chain"):
        upstream_results([chain(2, "abcde", 3, "lost a worker")])
