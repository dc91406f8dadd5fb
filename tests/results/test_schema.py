from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.errors import RunFolderError
from calvin_eval.results.schema import ChainRecord, ChainStatus, SubtaskRecord

TASKS = ("open_drawer", "turn_on_led", "lift_red_block_table")


def subtask(task: str = TASKS[0], **changes: Any) -> SubtaskRecord:
    values: dict[str, Any] = {
        "task": task,
        "instruction": "pull the drawer",
        "success": True,
        "steps": 42,
        "seconds": 0.1 + 0.2,
        "state_hash": "ab12",
    }
    return SubtaskRecord(**{**values, **changes})


def chain(**changes: Any) -> ChainRecord:
    values: dict[str, Any] = {
        "chain": 7,
        "initial_state": {"slider": "right", "led": 0, "grasped": 0},
        "tasks": TASKS,
        "subtasks": (subtask(), subtask(TASKS[1], success=False, steps=360)),
        "status": "completed",
    }
    return ChainRecord(**{**values, **changes})


names = st.text(min_size=1)
task_names = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")
subtasks = st.builds(
    SubtaskRecord,
    task=task_names,
    instruction=st.text(),
    success=st.booleans(),
    steps=st.integers(0, 10_000),
    seconds=st.floats(0, 1e6),
    state_hash=names,
)


@st.composite
def chains(draw: st.DrawFn) -> ChainRecord:
    tasks = tuple(draw(st.lists(task_names, min_size=1, max_size=6)))
    statuses: list[ChainStatus] = ["completed", "error"]
    status = draw(st.sampled_from(statuses))
    done = draw(st.integers(0, len(tasks)))
    records = [replace(draw(subtasks), task=task, success=True) for task in tasks[:done]]
    if status == "completed" and done < len(tasks):
        records.append(replace(draw(subtasks), task=tasks[done], success=False))
    return ChainRecord(
        chain=draw(st.integers(0, 5000)),
        initial_state=draw(st.dictionaries(names, names | st.integers())),
        tasks=tasks,
        subtasks=tuple(records),
        status=status,
        error=draw(names) if status == "error" else None,
    )


@pytest.mark.slow
@given(chains())
def test_json_gives_the_record_back(record: ChainRecord) -> None:
    assert ChainRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_initial_state_keeps_its_order() -> None:
    text = json.dumps(chain().to_json())
    assert list(ChainRecord.from_json(json.loads(text)).initial_state) == [
        "slider",
        "led",
        "grasped",
    ]


def test_length_and_seconds() -> None:
    assert chain().length == 1
    assert chain().seconds == pytest.approx(0.6)


def test_outcome_ignores_wall_times_only() -> None:
    slower = chain(
        subtasks=(subtask(seconds=9.0), subtask(TASKS[1], success=False, steps=360, seconds=8.0))
    )
    assert slower != chain()
    assert slower.outcome() == chain().outcome()
    other = chain(subtasks=(subtask(state_hash="ff"), subtask(TASKS[1], success=False, steps=360)))
    assert other.outcome() != chain().outcome()
    assert chain(chain=8).outcome() != chain().outcome()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "subtask.steps: expected a whole number >= 0, found -1"),
        ({"steps": np.int64(3)}, "subtask.steps"),
        ({"steps": True}, "subtask.steps"),
        ({"success": 1}, "subtask.success"),
        ({"success": np.bool_(True)}, "subtask.success"),
        ({"seconds": float("nan")}, "subtask.seconds"),
        ({"seconds": -0.5}, "subtask.seconds"),
        ({"seconds": "1"}, "subtask.seconds"),
        ({"task": ""}, "subtask.task"),
        ({"state_hash": None}, "subtask.state_hash"),
    ],
)
def test_impossible_subtasks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subtask(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chain": -1}, "chain: expected"),
        ({"tasks": ()}, "one or more task names"),
        ({"tasks": list(TASKS)}, "a tuple of one or more"),
        ({"tasks": ("a", "b")}, "a beginning of the tasks"),
        ({"subtasks": (subtask(), subtask(TASKS[1]))}, "all tasks or a failed last one"),
        ({"subtasks": ()}, "all tasks or a failed last one"),
        ({"subtasks": (subtask(success=False), subtask(TASKS[1]))}, "after a failed one"),
        ({"status": "done"}, "chain.status"),
        ({"status": "error"}, "chain.error: expected a non-empty string"),
        ({"error": "boom"}, "null in a completed chain"),
        ({"initial_state": {"led": True}}, "chain.initial_state"),
        ({"initial_state": {"led": 0.5}}, "chain.initial_state"),
    ],
)
def test_impossible_chains_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain(**changes)


@pytest.mark.parametrize("field", ["chain", "subtasks", "error"])
def test_missing_and_unknown_keys_are_errors(field: str) -> None:
    data = chain().to_json()
    del data[field]
    with pytest.raises(RunFolderError, match=f"missing keys \\['{field}'\\]"):
        ChainRecord.from_json(data)
    with pytest.raises(RunFolderError, match="unknown keys \\['mood'\\]"):
        ChainRecord.from_json({**chain().to_json(), "mood": 1})
    data = chain().to_json()
    data["subtasks"][0]["mood"] = 1
    with pytest.raises(RunFolderError, match="damaged subtask record"):
        ChainRecord.from_json(data)


@pytest.mark.parametrize("data", [None, [], "x", {**chain().to_json(), "tasks": "open_drawer"}])
def test_foreign_json_is_refused(data: object) -> None:
    with pytest.raises(RunFolderError, match="damaged chain record"):
        ChainRecord.from_json(data)


def test_wrong_types_in_json_are_run_folder_errors() -> None:
    with pytest.raises(RunFolderError, match="chain: expected a whole number"):
        ChainRecord.from_json({**chain().to_json(), "chain": "7"})
    with pytest.raises(RunFolderError, match=r"chain\.status"):
        ChainRecord.from_json({**chain().to_json(), "status": ["completed"]})
