"""Two or more runs of the same chains, compared with the first of them.

Everything is paired on the chain: the same start state and the same five tasks, so that what
makes a chain hard cancels out. Only chains that both runs completed are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.causes import CauseContrast, cause_contrasts, read_causes
from calvin_eval.results.comparability import (
    Difference,
    differing,
    driver_differences,
    protocol_facts,
)
from calvin_eval.results.compared import ComparedRun, distinct, rates_of, read_run
from calvin_eval.results.contrasts import (
    PositionContrast,
    TaskContrast,
    common_chains,
    position_contrasts,
    task_contrasts,
)
from calvin_eval.results.paired import Contrast, mean_difference, sign_flip_test
from calvin_eval.results.published import Published, is_run_folder, read_published
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.unpaired import Unpaired, compare_rates

SCHEMA = 1
"""Version of the JSON form of a comparison."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A chain that the runs carried to different lengths.

    Attributes:
        chain: its id.
        tasks: its tasks.
        first, other: tasks done in a row.
        first_broke, other_broke: the task that failed; None if all were done.
        first_video, other_video: inside the run folders; None where there is none.
    """

    chain: int
    tasks: tuple[str, ...]
    first: int
    other: int
    first_broke: str | None
    other_broke: str | None
    first_video: str | None
    other_video: str | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The first run and another.

    Attributes:
        first, other: the runs.
        chains: how many both completed.
        first_length, other_length: average lengths of these.
        difference: of the average lengths.
        p: of no difference, by the exact sign-flip test.
        positions, tasks, flips: see there; tasks by p, flips by size.
        differences: what forbids the comparison, where it was forced.
        remarks: what a reader should know.
        causes: of failures, where both runs were diagnosed.
    """

    first: ComparedRun
    other: ComparedRun
    chains: int
    first_length: float
    other_length: float
    difference: Contrast
    p: float
    positions: tuple[PositionContrast, ...]
    tasks: tuple[TaskContrast, ...]
    flips: tuple[Flip, ...]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    causes: tuple[CauseContrast, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        runs = {"first": self.first.name, "other": self.other.name}
        tables = {
            name: [asdict(row) for row in getattr(self, name)]
            for name in ("positions", "tasks", "flips", "differences")
        }
        single = {n: getattr(self, n) for n in ("chains", "first_length", "other_length", "p")}
        spread = asdict(self.difference)
        causes = {"causes": [asdict(row) for row in self.causes]} if self.causes else {}
        remarks = {"remarks": list(self.remarks)}
        return {**runs, **single, "difference": spread, **tables, **causes, **remarks}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it: every other run against the first.

    Attributes:
        runs: the run folders.
        pairs: of two runs, chain by chain.
        published: the result files.
        unpaired: of a run and a result file, or two of these.
    """

    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    published: tuple[Published, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()

    @property
    def forced(self) -> bool:
        """Whether runs are compared that should not be."""
        return any(pair.differences for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        paired = {
            "schema_version": SCHEMA,
            "forced": self.forced,
            "correction": "holm",
            "runs": [run.to_json() for run in self.runs],
            "pairs": [pair.to_json() for pair in self.pairs],
        }
        if not self.published:
            return paired
        files = [{"name": file.name, "what": str(file)} for file in self.published]
        return {**paired, "published": files, "unpaired": [u.to_json() for u in self.unpaired]}


def compare_runs(runs: Sequence[str | os.PathLike[str]], *, force: bool = False) -> Comparison:
    """Compare runs with the first of them.

    Args:
        runs: two or more run folders, or result files that others published, see
            `published.read_published`. A file has no chains, so it is compared by its rates alone.
        force: compare what differs in assets, revision, renderer or protocol; the comparison
            then says so.

    Raises:
        UsageError: fewer than two runs.
        RunFolderError: the runs differ in what they must share, or share no chain.
    """
    if len(runs) < 2:
        raise UsageError(f"expected two or more runs to compare, found {len(runs)}")
    files = {place: read_published(p) for place, p in enumerate(runs) if not is_run_folder(p)}
    places = [place for place in range(len(runs)) if place not in files]
    read = distinct([read_run(runs[place]) for place in places])
    found = [(o, _differences(read[0], o)) for o in read[1:]] if 0 not in files else []
    bad = [f"{read[0].name} and {other.name}: {_listed(d)}" for other, d in found if d]
    if bad and not force:
        raise RunFolderError(
            "expected runs with the same assets, revision, renderer and protocol, found "
            f"differences. {' | '.join(bad)}. Run one of them again with the other's settings, "
            "or compare nevertheless with --force."
        )
    pairs = tuple(compare_pair(read[0], other, differences) for other, differences in found)
    return Comparison(
        runs=tuple(read),
        pairs=pairs,
        published=tuple(files.values()),
        unpaired=_unpaired({**files, **dict(zip(places, read, strict=True))}),
    )


def _unpaired(sides: Mapping[int, ComparedRun | Published]) -> tuple[Unpaired, ...]:
    """The first side against every other, where one of the two is a result file."""
    first, *others = [sides[place] for place in sorted(sides)]
    apart = [o for o in others if isinstance(first, Published) or isinstance(o, Published)]
    return tuple(compare_rates(rates_of(first), rates_of(other)) for other in apart)


def compare_pair(
    first: ComparedRun, other: ComparedRun, differences: Sequence[Difference] = ()
) -> Pair:
    """Two runs, chain by chain.

    Args:
        first: one of them.
        other: the other, whose values less the first's are the differences.
        differences: what forbids the comparison, where it was forced.

    Raises:
        RunFolderError: they share no chain, or have other chains under the same id.
    """
    both = common_chains(first.records, other.records)
    if not both:
        raise RunFolderError(
            f"expected chains that both {first.name} and {other.name} completed, found none of "
            f"{first.completed} and {other.completed}. Choose runs of the same chains."
        )
    steps = [b.length - a.length for a, b in both]
    (one, doubt), (two, second) = read_causes(first), read_causes(other)
    causes = (
        () if one is None or two is None else cause_contrasts(one, two, [a.chain for a, _ in both])
    )
    flips = [_flip(first, other, a, b) for a, b in both if a.length != b.length]
    return Pair(
        first=first,
        other=other,
        chains=len(both),
        first_length=sum(a.length for a, _ in both) / len(both),
        other_length=sum(b.length for _, b in both) / len(both),
        difference=mean_difference(steps, max(len(a.tasks) for a, _ in both)),
        p=sign_flip_test(steps),
        positions=position_contrasts(both),
        tasks=task_contrasts(both),
        flips=tuple(sorted(flips, key=lambda f: (-abs(f.first - f.other), f.chain))),
        differences=tuple(differences),
        remarks=(*_remarks(first, other, len(both)), *filter(None, (doubt, second))),
        causes=causes,
    )


def _flip(first: ComparedRun, other: ComparedRun, a: ChainRecord, b: ChainRecord) -> Flip:
    return Flip(
        chain=a.chain,
        tasks=a.tasks,
        first=a.length,
        other=b.length,
        first_broke=_broke(a),
        other_broke=_broke(b),
        first_video=first.video(a.chain),
        other_video=other.video(b.chain),
    )


def _broke(record: ChainRecord) -> str | None:
    return record.tasks[record.length] if record.length < len(record.tasks) else None


def _differences(first: ComparedRun, other: ComparedRun) -> tuple[Difference, ...]:
    return differing(protocol_facts(first.header), protocol_facts(other.header))


def _remarks(first: ComparedRun, other: ComparedRun, common: int) -> tuple[str, ...]:
    remarks = []
    for run in (first, other):
        if run.completed < run.planned:
            remarks.append(
                f"{run.name} is incomplete: {run.completed} of {run.planned} chains completed, "
                f"{run.errors} ended by an error."
            )
        if common < run.completed:
            remarks.append(f"{run.completed - common} chains of {run.name} have no partner.")
    drivers = driver_differences(first.header, other.header)
    if drivers:
        remarks.append(f"The images come from other drivers: {_listed(drivers)}.")
    return tuple(remarks)


def _listed(differences: Sequence[Difference]) -> str:
    return "; ".join(map(str, differences))
