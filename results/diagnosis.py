"""Why the failures of a run failed, as `diagnosis.json` has it.

What is computed from records and actions alone: the same run gives the same bytes, whatever the
number of workers, and in whichever order its chains were run. Rules and formulas: docs/diagnose.md.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from calvin_eval.errors import RunFolderError
from calvin_eval.results.intervals import Interval
from calvin_eval.results.means import mean_interval
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.typed import MismatchError, read

DIAGNOSIS: Final = "diagnosis.json"
DIAGNOSIS_VERSION: Final = 1

Cause: TypeAlias = Literal[
    "never moved",
    "never approached the target",
    "touched the wrong object",
    "reached and did not grasp",
    "grasped and lost",
    "wrong direction or place",
    "nearly there",
    "done and undone",
    "out of steps while progressing",
    "stalled",
]
CAUSES: Final[tuple[str, ...]] = get_args(Cause)
"""Exclusive, and in this order: the first whose rule holds is a failure's cause."""


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """A task that was done in a subtask.

    Attributes:
        task: its name.
        first: step after which it was achieved first, from 1.
        lasting: whether it still was when the subtask ended.
    """

    task: str
    first: int
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What the policy did all the time; shares are of the subtask's steps, 0..1.

    Attributes:
        saturated: with a component of the relative action at its limit; None for other actions.
        frozen: in which the hand moved by less than a tenth of a millimetre.
        reversals: in which the hand turned back on its way.
        gripper_switches: how often the gripper's command changed.
        joint_limit: in which a joint of the arm stood at its limit.
        table_hits: how often the arm came to touch the table itself, moving parts not counted.
        first_contact: step after which a target was touched first; None if none was.
        path: metres that the hand travelled.
    """

    saturated: float | None
    frozen: float
    reversals: float
    gripper_switches: int
    joint_limit: float
    table_hits: int
    first_contact: int | None
    path: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the expert made of a state.

    Attributes:
        solved: whether the oracle held the task achieved.
        steps: that it took, or tried.
        path: metres that its hand travelled.
        problem: what ended it early; None if nothing did.
    """

    solved: bool
    steps: int
    path: float
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed subtask.

    Attributes:
        chain: the chain's id.
        position: of the subtask in it, from 0.
        task: what was asked.
        instruction: in which words.
        steps: that it took.
        cause: why it failed.
        why: what was seen, in a sentence.
        obstacle: why the oracle could not hold it achieved from the start; None if it could.
        target: blocks or the joint that the task is about.
        touched: objects that the robot touched, the target among them.
        grasped: blocks that it held.
        closest: metres between the hand and the target, at the least.
        closest_step: when that was.
        progress_end: 0..1, see `calvin_eval.sim.progress`.
        progress_best: likewise, the highest.
        best_step: when that was.
        curve: progress at about thirty evenly spaced steps, the last one included.
        achieved: all tasks that were done meanwhile, in order of time.
        habits: what the policy did all the time.
        from_begin: what the expert made of the state that the subtask began in; None if it was
            not asked.
        from_end: likewise of the state that it ended in, as the same subtask with more steps.
    """

    chain: int
    position: int
    task: str
    instruction: str
    steps: int
    cause: Cause
    why: str
    obstacle: str | None
    target: tuple[str, ...]
    touched: tuple[str, ...]
    grasped: tuple[str, ...]
    closest: float
    closest_step: int
    progress_end: float
    progress_best: float
    best_step: int
    curve: tuple[float, ...]
    achieved: tuple[Achieved, ...]
    habits: Habits
    from_begin: Attempt | None = None
    from_end: Attempt | None = None


@dataclass(frozen=True, kw_only=True)
class SideEffect:
    """A subtask that succeeded, and did other tasks as well.

    Attributes:
        chain: the chain's id.
        position: of the subtask in it, from 0.
        task: what was asked, and done.
        also: what else was achieved when it ended.
    """

    chain: int
    position: int
    task: str
    also: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Undiagnosed:
    """A chain that could not be looked at, and why."""

    chain: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is known of a run's failures.

    Attributes:
        records_sha256: of the records that it is about, see `records_digest`.
        instructions: by task, a sentence with which it was asked.
        lengths: by chain that was looked at, the number of tasks done in a row.
        most: tasks of the longest chain.
        failures: in order of the chains.
        side_effects: likewise.
        undiagnosed: chains that could not be looked at.
    """

    records_sha256: str
    instructions: Mapping[str, str]
    lengths: Mapping[str, int]
    most: int
    failures: tuple[Failure, ...]
    side_effects: tuple[SideEffect, ...]
    undiagnosed: tuple[Undiagnosed, ...]

    @property
    def causes(self) -> dict[str, int]:
        """How many failures have each cause, in the order of the rules."""
        counts = Counter(failure.cause for failure in self.failures)
        return {cause: counts[cause] for cause in CAUSES}  # type: ignore[index]

    def confusion(self) -> dict[str, dict[str, int]]:
        """By task that failed, in how many failures each other task was done instead."""
        rows: dict[str, Counter[str]] = {}
        for failure in self.failures:
            row = rows.setdefault(failure.task, Counter())
            row.update(one.task for one in failure.achieved)
        return {task: dict(sorted(rows[task].items())) for task in sorted(rows)}

    def solvable(self) -> dict[str, dict[str, int]]:
        """By place in the chain from 1, and `all`: failures that the expert was asked about.

        `failures` is their number, `begin` how many it solved from the state that the subtask
        began in, `end` from the one that it ended in.
        """
        tried = [f for f in self.failures if f.from_begin is not None and f.from_end is not None]
        places = {str(place + 1): place for place in sorted({f.position for f in tried})}
        rows = {name: [f for f in tried if f.position == p] for name, p in places.items()}
        return {
            name: {
                "failures": len(row),
                "begin": sum(f.from_begin is not None and f.from_begin.solved for f in row),
                "end": sum(f.from_end is not None and f.from_end.solved for f in row),
            }
            for name, row in {**rows, "all": tried}.items()
            if row
        }

    def partial_length(self) -> tuple[float, Interval] | None:
        """Mean tasks in a row, the failed one counted by its progress at the end; unofficial.

        With its 95 % interval, in hundredths of a task; None without any chain.
        """
        extra = {str(failure.chain): failure.progress_end for failure in self.failures}
        values = [round(100 * (n + extra.get(c, 0.0))) for c, n in self.lengths.items()]
        if not values:
            return None
        interval = mean_interval(values, (0, 100 * self.most))
        return (
            sum(values) / len(values) / 100,
            Interval(low=interval.low / 100, high=interval.high / 100),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values: counts first, which follow from the rest."""
        partial = self.partial_length()
        counts: dict[str, Any] = {
            "schema_version": DIAGNOSIS_VERSION,
            "causes": self.causes,
            "causes_by_task": {
                task: dict(Counter(f.cause for f in self.failures if f.task == task))
                for task in sorted({failure.task for failure in self.failures})
            },
            "asked_and_done": self.confusion(),
            "solvable_by_position": self.solvable(),
            "unofficial_partial_length": None
            if partial is None
            else {"mean": round(partial[0], 4), **asdict(partial[1])},
        }
        return {**counts, **asdict(self)}

    @classmethod
    def from_json(cls, data: object, where: str) -> Diagnosis:
        """The inverse of `to_json`; raises RunFolderError for anything else."""
        version = data.get("schema_version") if isinstance(data, Mapping) else None
        if version != DIAGNOSIS_VERSION:
            raise RunFolderError(
                f"{where}: expected schema_version {DIAGNOSIS_VERSION}, found {version!r}; "
                "make it again by `calvin-eval diagnose`"
            )
        try:
            return read(cls, data)
        except MismatchError as error:
            raise RunFolderError(f"{where}: {error}") from error


def records_digest(records: Sequence[ChainRecord]) -> str:
    """SHA-256 of what has to be equal when a run is repeated, chains in order of their ids."""
    outcomes = [record.outcome() for record in sorted(records, key=lambda record: record.chain)]
    return hashlib.sha256(json.dumps(outcomes).encode()).hexdigest()


def read_diagnosis(folder: RunFolder) -> Diagnosis | None:
    """The diagnosis in a run folder; None if there is none.

    Raises:
        RunFolderError: it is damaged, or about other records than the run has now.
    """
    path = folder.path / DIAGNOSIS
    if not path.exists():
        return None
    found = Diagnosis.from_json(folder.read_json(DIAGNOSIS), str(path))
    if found.records_sha256 != records_digest(folder.records()):
        raise RunFolderError(
            f"{path}: expected a diagnosis of the chains that the run has now, found one of "
            f"others; make it again by `calvin-eval diagnose {folder.path}`"
        )
    return found
