"""Where two runs of the same chains differ: by place in the chain and by task.

A task's attempts are paired only where both runs got to it: a run that breaks off earlier
attempts less, and what it attempts is not a fair sample. The test of a task is therefore
McNemar's on the attempts that both made, which stand at the same place of the same chain; the
success rates over a run's own attempts are shown beside it and not tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from calvin_eval.errors import RunFolderError
from calvin_eval.results.metrics import Count, task_counts
from calvin_eval.results.paired import Contrast, holm, mcnemar, mean_difference
from calvin_eval.results.schema import ChainRecord

Pairs: TypeAlias = Sequence[tuple[ChainRecord, ChainRecord]]
"""Completed records of the same chains, one of each run."""


@dataclass(frozen=True, kw_only=True)
class PositionContrast:
    """The share of chains with at least `position` tasks in a row; both runs have such chains.

    Attributes:
        position: 1, 2, ...
        first, other: the shares.
        difference: of the shares.
        only_first, only_other: chains that one of the runs got so far and the other did not.
        p: McNemar's, exact; not corrected for the five positions, which are nested.
    """

    position: int
    first: float
    other: float
    difference: Contrast
    only_first: int
    only_other: int
    p: float


@dataclass(frozen=True, kw_only=True)
class TaskContrast:
    """One task.

    Attributes:
        task: its name.
        first, other: successes among all of a run's own attempts, in the chains of both.
        common: attempts that both made, at the same place of the same chain.
        only_first, only_other: common attempts in which one of them succeeded.
        difference: of the success rates in the common attempts; None without any.
        p: McNemar's, exact, on the common attempts.
        p_holm: corrected for the number of tasks.
    """

    task: str
    first: Count
    other: Count
    common: int
    only_first: int
    only_other: int
    difference: float | None
    p: float
    p_holm: float


def common_chains(
    first: Mapping[int, ChainRecord], other: Mapping[int, ChainRecord]
) -> list[tuple[ChainRecord, ChainRecord]]:
    """The chains that are in both, by id.

    Raises:
        RunFolderError: an id means another chain in the other run.
    """
    pairs = [(first[chain], other[chain]) for chain in sorted(first.keys() & other.keys())]
    for a, b in pairs:
        same_start = dict(a.initial_state) == dict(b.initial_state) and a.start == b.start
        if a.tasks != b.tasks or not same_start:
            raise RunFolderError(
                f"expected both runs to have the same chain {a.chain}, found {', '.join(a.tasks)} "
                f"and {', '.join(b.tasks)}, or another start: their chain lists are not the same. "
                "Nothing can be paired; run one of them on the other's list."
            )
    return pairs


def position_contrasts(
    both: Pairs,
) -> tuple[PositionContrast, ...]:
    """Per i = 1..: the chains that have i tasks, and who did at least so many."""
    rows = []
    for i in range(1, max(len(a.tasks) for a, _ in both) + 1):
        got = [(a.length >= i, b.length >= i) for a, b in both if len(a.tasks) >= i]
        outcomes = Counter(got)
        only = outcomes[True, False], outcomes[False, True]
        rows.append(
            PositionContrast(
                position=i,
                first=sum(a for a, _ in got) / len(got),
                other=sum(b for _, b in got) / len(got),
                difference=mean_difference([b - a for a, b in got], 1),
                only_first=only[0],
                only_other=only[1],
                p=mcnemar(*only),
            )
        )
    return tuple(rows)


def task_contrasts(both: Pairs) -> tuple[TaskContrast, ...]:
    """Per task, the smallest p first."""
    outcomes: dict[str, Counter[tuple[bool, bool]]] = {}
    for a, b in both:
        for one, two in zip(a.subtasks, b.subtasks, strict=False):
            outcomes.setdefault(one.task, Counter())[one.success, two.success] += 1
    mine, theirs = task_counts([a for a, _ in both]), task_counts([b for _, b in both])
    p = {task: mcnemar(n[True, False], n[False, True]) for task, n in outcomes.items()}
    corrected, none = holm(p), Count(success=0, total=0)
    rows = []
    for task in sorted({*mine, *theirs}):
        n = outcomes.get(task, Counter())
        only, common = (n[True, False], n[False, True]), sum(n.values())
        rows.append(
            TaskContrast(
                task=task,
                first=mine.get(task, none),
                other=theirs.get(task, none),
                common=common,
                only_first=only[0],
                only_other=only[1],
                difference=(only[1] - only[0]) / common if common else None,
                p=p.get(task, 1.0),
                p_holm=corrected.get(task, 1.0),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.p, row.task)))
