"""One cell of a robustness suite: an axis at a level, on the chains of the clean run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from calvin_eval.errors import RunFolderError
from calvin_eval.results.contrasts import Pairs
from calvin_eval.results.gate_spec import TOP
from calvin_eval.results.metrics import position_counts
from calvin_eval.results.paired import Contrast, sign_flip_test
from calvin_eval.results.robustness.stopping import LEVEL, Lengths, interval_of, looked_at
from calvin_eval.results.schema import ChainRecord
from calvin_eval.shifts import Level

Records: TypeAlias = Mapping[int, ChainRecord]

_LEAST = 3  # attempts that the clean run did, of which half must be lost for a task to be broken
_MOST_TASKS = 5


@dataclass(frozen=True, kw_only=True)
class CellName:
    """An axis and its level.

    Attributes:
        axis: of `calvin_eval.shifts.AXES`.
        level: one of the axis.
    """

    axis: str
    level: Level

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"{self.axis}-{self.level}"

    @property
    def graded(self) -> bool:
        """Whether this is a level and no probe."""
        return isinstance(self.level, int)

    def __str__(self) -> str:
        return f"{self.axis}={self.level}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of a cell.

    Attributes:
        name: of it.
        planned: chains that it was meant to have.
        stopped: whether it had fewer because its interval was narrow enough.
        lengths: of its chains.
        pairs: completed chains that the clean run completed as well, the clean record first.
        difference: of the average lengths, shifted less clean, on the pairs; None without any.
        p: of no difference, by the exact sign-flip test; None where the number of chains was not
            fixed in advance.
    """

    name: CellName
    planned: int
    stopped: bool
    lengths: Lengths
    pairs: Pairs
    difference: Contrast | None
    p: float | None

    @property
    def clean_length(self) -> float | None:
        """The clean run's average length on the same chains."""
        return sum(a.length for a, _ in self.pairs) / len(self.pairs) if self.pairs else None

    def lengths_of(self, chain: int) -> dict[str, int]:
        """Tasks in a row of a chain that is among the pairs, `clean` and `shifted`."""
        a, b = next(pair for pair in self.pairs if pair[0].chain == chain)
        return {"clean": a.length, "shifted": b.length}

    @property
    def used(self) -> int:
        """Chains that count."""
        return self.lengths.completed + len(self.lengths.broken)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be run."""
        return self.stopped or self.lengths.completed == self.planned

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        span = self.lengths.interval()
        d = self.difference
        return {
            "axis": self.name.axis,
            "level": self.name.level,
            "folder": self.name.folder,
            "planned": self.planned,
            "used": self.used,
            "errors": len(self.lengths.broken),
            "stopped": self.stopped,
            "lengths": list(self.lengths.counts),
            "broken": [list(span) for span in self.lengths.broken],
            "sequential": self.lengths.sequential,
            "average_length": self.lengths.mean,
            "interval": [span.low, span.high],
            "pairs": len(self.pairs),
            "clean_length": self.clean_length,
            "difference": None if d is None else [d.estimate, d.low, d.high],
            "p": self.p,
        }


def measure(
    name: CellName, records: Records, planned: Sequence[int], clean: Records, width: float
) -> Cell:
    """Compare a cell's run with the clean one.

    Args:
        name: of the cell.
        records: of its run, by chain.
        planned: ids of its chains, in the order of the list.
        clean: records of the clean run.
        width: see `Tight`.

    Raises:
        RunFolderError: an id means other tasks in the clean run.
    """
    used, stopped = looked_at(records, planned, width)
    sequential = len(used) < len(planned)
    pairs = [
        (clean[record.chain], record)
        for record in used
        if record.status == "completed"
        and record.chain in clean
        and clean[record.chain].status == "completed"
    ]
    if wrong := [b.chain for a, b in pairs if a.tasks != b.tasks]:
        raise RunFolderError(
            f"expected {name.folder} and the clean run to have the same chains, found other tasks "
            f"in chain {wrong[0]}"
        )
    steps = [b.length - a.length for a, b in pairs]
    difference = None
    if steps:
        low, high = interval_of([(s, s) for s in steps], (-TOP, TOP), LEVEL, sequential)
        difference = Contrast(estimate=sum(steps) / len(steps), low=low, high=high)
    return Cell(
        name=name,
        planned=len(planned),
        stopped=stopped,
        lengths=Lengths.of(used, sequential=sequential),
        pairs=pairs,
        difference=difference,
        p=None if sequential or not steps else sign_flip_test(steps),
    )


@dataclass(frozen=True, kw_only=True)
class TaskLoss:
    """A task under an axis, all graded levels together.

    Attributes:
        task: its name.
        common: attempts that the clean and the shifted run both made, at the same place of the
            same chain.
        lost: of these, the clean run's successes that the shifted run did not have.
        gained: the other way round.
        broken_at: the lowest level at which half of the clean run's successes were lost, of three
            at least; None if there is none.
    """

    task: str
    common: int
    lost: int
    gained: int
    broken_at: int | None

    @property
    def drop(self) -> float:
        """Of the success rate in the common attempts."""
        return (self.lost - self.gained) / self.common


def task_losses(cells: Sequence[Cell]) -> tuple[TaskLoss, ...]:
    """The tasks that an axis breaks most, the first to break first; up to five.

    Args:
        cells: of one axis, graded ones, by level.
    """
    total: Counter[tuple[str, bool, bool]] = Counter()
    broken: dict[str, int] = {}
    for cell in cells:
        here = Counter(
            (a.task, a.success, b.success)
            for one, two in cell.pairs
            for a, b in zip(one.subtasks, two.subtasks, strict=False)
        )
        total += here
        for task in {task for task, *_ in here}:
            lost, kept = here[task, True, False], here[task, True, True]
            if lost + kept >= _LEAST and lost >= kept:
                broken.setdefault(task, int(cell.name.level))
    losses = [
        TaskLoss(
            task=task,
            common=sum(total[task, a, b] for a in (True, False) for b in (True, False)),
            lost=total[task, True, False],
            gained=total[task, False, True],
            broken_at=broken.get(task),
        )
        for task in {task for task, *_ in total}
    ]
    worse = [loss for loss in losses if loss.drop > 0]
    worse.sort(key=lambda loss: (loss.broken_at or TOP + 1, -loss.drop, loss.task))
    return tuple(worse[:_MOST_TASKS])


@dataclass(frozen=True, kw_only=True)
class PlaceLoss:
    """A place in the chain under an axis, all graded levels together.

    Attributes:
        position: 1, 2, ...
        clean, shifted: success rates among the chains of the pairs that got there.
    """

    position: int
    clean: float | None
    shifted: float | None


def place_losses(cells: Sequence[Cell]) -> tuple[PlaceLoss, ...]:
    """Success at every place of the chain, clean and under an axis.

    Args:
        cells: of one axis, graded ones.
    """
    pairs = [pair for cell in cells for pair in cell.pairs]
    clean, shifted = (position_counts([pair[side] for pair in pairs]) for side in (0, 1))
    return tuple(
        PlaceLoss(position=i, clean=clean[i].rate, shifted=shifted[i].rate) for i in sorted(clean)
    )
