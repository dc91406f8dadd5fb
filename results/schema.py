"""What is recorded of a chain, and its exact JSON form.

Records are checked when they are built, so a record that exists is a possible one. Key order in
JSON is fixed by this module, except for `initial_state`, whose own order is kept: upstream
derives the blocks' poses from the order of these values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias, get_args

from calvin_eval.errors import RunFolderError

SCHEMA_VERSION = 1
"""Version of everything in a run folder; stored in its header."""

_MOST: Final = 10**9  # steps, seconds and ids; thirty years
_TASK: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

PRINTED: Final = "The policy printed last:"
"""What stands in an error between what happened and what the policy printed last, if anything."""

ChainStatus: TypeAlias = Literal["completed", "error"]


@dataclass(frozen=True, kw_only=True)
class SubtaskRecord:
    """One instruction that was carried out to its end.

    Attributes:
        task: the task's name.
        instruction: the sentence the policy was given; empty where it was told nothing.
        success: whether the oracle saw the task achieved within the step budget.
        steps: environment steps taken, 0 or more.
        seconds: wall time; the only field that may differ between two equal runs.
        state_hash: hash of the simulator's state after the last step.
    """

    task: str
    instruction: str
    success: bool
    steps: int
    seconds: float
    state_hash: str

    def __post_init__(self) -> None:
        """Raise ValueError for a value of the wrong type or out of range."""
        _require_task("subtask.task", self.task)
        said = type(self.instruction) is str
        _require(said, "subtask.instruction", "a string", self.instruction)
        _require_text("subtask.state_hash", self.state_hash)
        _require(type(self.success) is bool, "subtask.success", "true or false", self.success)
        _require_count("subtask.steps", self.steps)
        fine = _is_number(self.seconds) and 0 <= self.seconds <= _MOST
        _require(fine, "subtask.seconds", "a finite number >= 0", self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, keys in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> SubtaskRecord:
        """The inverse of `to_json`; raises RunFolderError for anything else."""
        values = _exact_keys(data, [field.name for field in fields(cls)], "subtask record")
        try:
            return cls(**values)
        except ValueError as error:
            raise RunFolderError(f"damaged subtask record: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StartState:
    """The numbers that a chain starts from, where its list gives them.

    Attributes:
        robot_obs: 15 numbers, as the simulator's `robot_obs`.
        scene_obs: 24 numbers, as its `scene_obs`.
    """

    robot_obs: tuple[float, ...]
    scene_obs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for another count, or a number that is not finite."""
        for name, size in (("robot_obs", 15), ("scene_obs", 24)):
            values = getattr(self, name)
            fine = type(values) is tuple and len(values) == size
            fine = fine and all(_is_number(v) and math.isfinite(v) for v in values)
            _require(fine, f"chain.start.{name}", f"{size} finite numbers", values)

    @classmethod
    def from_json(cls, data: object) -> StartState:
        """The inverse of `to_json`; raises ValueError for anything else."""
        names = [field.name for field in fields(cls)]
        fine = isinstance(data, dict) and sorted(data) == names
        _require(fine, "chain.start", "robot_obs and scene_obs", data)
        assert isinstance(data, dict)
        lists = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
        return cls(**lists)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"robot_obs": list(self.robot_obs), "scene_obs": list(self.scene_obs)}


@dataclass(frozen=True, kw_only=True)
class ChainRecord:
    """One chain, finished or broken off by an error.

    Attributes:
        chain: the chain's id in its list, 0 or more.
        initial_state: the symbolic state the chain starts from; may be empty beside `start`.
        tasks: the planned tasks, at least one.
        subtasks: those that ran to their end: the first tasks of the chain, all but perhaps the
            last of them successful.
        status: `completed` if the chain ended by success of all or failure of one task;
            `error` if something else ended it (such a chain says nothing about the policy).
        error: what ended it, for status `error` only.
        start: the numbers that the chain starts from, if its list gives them; else they follow
            from `initial_state`. Written only where there are some.
    """

    chain: int
    initial_state: Mapping[str, str | int]
    tasks: tuple[str, ...]
    subtasks: tuple[SubtaskRecord, ...]
    status: ChainStatus
    error: str | None = None
    start: StartState | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a record that no chain can leave behind."""
        _require_count("chain", self.chain)
        _require_state(self.initial_state)
        tasks = self.tasks if type(self.tasks) is tuple else ()
        _require(len(tasks) > 0, "chain.tasks", "a tuple of one or more task names", self.tasks)
        for task in tasks:
            _require_task("chain.tasks", task)
        _require(type(self.subtasks) is tuple, "chain.subtasks", "a tuple", self.subtasks)
        done = tuple(subtask.task for subtask in self.subtasks)
        prefix = tasks[: len(done)]
        _require(done == prefix, "chain.subtasks", f"a beginning of the tasks {tasks}", done)
        outcomes = [subtask.success for subtask in self.subtasks]
        lasting = all(outcomes[:-1])
        _require(lasting, "chain.subtasks", "no subtask after a failed one", outcomes)
        self._require_status(outcomes)

    def _require_status(self, outcomes: list[bool]) -> None:
        known = get_args(ChainStatus)
        _require(self.status in known, "chain.status", f"one of {known}", self.status)
        if self.status == "error":
            _require_text("chain.error", self.error)
            return
        _require(self.error is None, "chain.error", "null in a completed chain", self.error)
        ended = len(outcomes) == len(self.tasks) or (len(outcomes) > 0 and not outcomes[-1])
        _require(ended, "chain.subtasks", "all tasks or a failed last one", outcomes)

    @property
    def length(self) -> int:
        """Number of tasks done in a row."""
        return sum(subtask.success for subtask in self.subtasks)

    @property
    def cause(self) -> str:
        """The line of the error that says what happened: a traceback's last, any other's first.

        Empty for a completed chain.
        """
        if self.error is None:
            return ""
        lines = self.error.strip().split(PRINTED)[0].strip().splitlines() or [self.error]
        return lines[-1 if lines[0].startswith("Traceback") else 0]

    @property
    def seconds(self) -> float:
        """Wall time of the recorded subtasks."""
        return math.fsum(subtask.seconds for subtask in self.subtasks)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, keys in the order of the fields."""
        start = {} if self.start is None else {"start": self.start.to_json()}
        return {
            "chain": self.chain,
            "initial_state": dict(self.initial_state),
            "tasks": list(self.tasks),
            "subtasks": [subtask.to_json() for subtask in self.subtasks],
            "status": self.status,
            "error": self.error,
            **start,
        }

    @classmethod
    def from_json(cls, data: object) -> ChainRecord:
        """The inverse of `to_json`; raises RunFolderError for anything else."""
        data = {"start": None, **data} if isinstance(data, dict) else data
        values = _exact_keys(data, [field.name for field in fields(cls)], "chain record")
        for name in ("tasks", "subtasks"):
            if not isinstance(values[name], list):
                found = type(values[name]).__name__
                raise RunFolderError(f"damaged chain record: {name} is a {found}, not a list")
        subtasks = tuple(SubtaskRecord.from_json(subtask) for subtask in values["subtasks"])
        start = values["start"]
        try:
            values["start"] = None if start is None else StartState.from_json(start)
            return cls(**{**values, "tasks": tuple(values["tasks"]), "subtasks": subtasks})
        except ValueError as error:
            raise RunFolderError(f"damaged chain record: {error}") from error

    def outcome(self) -> dict[str, Any]:
        """The record without wall times: what has to be equal when a run is repeated."""
        data = self.to_json()
        for subtask in data["subtasks"]:
            del subtask["seconds"]
        return data


def _require(fine: bool, what: str, expected: str, found: object) -> None:
    if not fine:
        raise ValueError(f"{what}: expected {expected}, found {found!r}")


def _require_text(what: str, value: object) -> None:
    _require(type(value) is str and value != "", what, "a non-empty string", value)


def _require_task(what: str, value: object) -> None:
    fine = type(value) is str and _TASK.fullmatch(value) is not None
    _require(fine, what, "a name of letters, digits, _, - and .", value)


def _require_count(what: str, value: object) -> None:
    fine = type(value) is int and 0 <= value <= _MOST
    _require(fine, what, "a whole number >= 0", value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_state(state: object) -> None:
    fine = isinstance(state, Mapping) and all(
        type(key) is str and type(value) in (str, int) for key, value in state.items()
    )
    _require(fine, "chain.initial_state", "names with strings or whole numbers", state)


def _exact_keys(data: object, names: Collection[str], what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise RunFolderError(f"damaged {what}: expected an object, found {type(data).__name__}")
    missing = [name for name in names if name not in data]
    unknown = [str(name) for name in data if name not in names]
    if missing or unknown:
        raise RunFolderError(
            f"damaged {what}, or one of another schema version than {SCHEMA_VERSION}: "
            f"missing keys {missing}, unknown keys {unknown}. "
            "Read it with the calvin-eval that wrote it."
        )
    return data
