"""The sides of a comparison: run folders, and results that others published."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calvin_eval.errors import RunFolderError
from calvin_eval.results.comparability import policy_line
from calvin_eval.results.conclude import facts_from_header, summarize_run
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import completed_chains
from calvin_eval.results.official import official_verdict
from calvin_eval.results.published import Published
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unpaired import Rates


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        name: the folder's name, made unique.
        policy: one line about it.
        planned, completed, errors: how much of it there is.
        folder: where it is.
        header: its header.
        records: its completed chains by id.
    """

    name: str
    policy: str
    planned: int
    completed: int
    errors: int
    folder: Path
    header: Header
    records: Mapping[int, ChainRecord]

    def video(self, chain: int) -> str | None:
        """The chain's video inside the run folder, if there is one."""
        name = f"videos/chain{chain:04d}.mp4"
        return name if (self.folder / name).is_file() else None

    def to_json(self) -> dict[str, Any]:
        """JSON values; no path."""
        names = ("name", "policy", "planned", "completed", "errors")
        return {name: getattr(self, name) for name in names}


def read_run(path: str | os.PathLike[str]) -> ComparedRun:
    """A run as far as it is compared; raises RunFolderError if there is none."""
    folder = RunFolder.open(path)
    header, records = folder.header(), folder.records()
    done = completed_chains(records)
    return ComparedRun(
        name=folder.path.name,
        policy=policy_line(header),
        planned=len(header.planned),
        completed=len(done),
        errors=len(records) - len(done),
        folder=folder.path,
        header=header,
        records={record.chain: record for record in done},
    )


def distinct(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs, named by so much of their paths as tells them apart."""
    names = [run.folder.name for run in runs]
    for depth in range(2, 5):
        if len(set(names)) == len(names):
            break
        names = ["/".join(run.folder.parts[-depth:]) for run in runs]
    else:  # the same folder twice
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return [ComparedRun(**{**vars(run), "name": n}) for run, n in zip(runs, names, strict=True)]


def rates_of(side: ComparedRun | Published) -> Rates:
    """The rates of a run or a result file, with what a reader should know of them.

    Raises:
        RunFolderError: the run has no completed chain.
    """
    if isinstance(side, Published):
        return Rates(
            name=side.name,
            average_length=side.average_length,
            rates=side.rates,
            lengths=side.lengths,
            tasks=side.tasks,
            remarks=(_about(side), *side.notes),
        )
    records = tuple(side.records.values())
    if not records:
        raise RunFolderError(f"{side.folder}: expected completed chains to compare, found none")
    summary = summarize_run(side.header, records)
    reasons = official_verdict(facts_from_header(side.header, summary)).reasons
    return Rates(
        name=side.name,
        average_length=summary.partial_average_length or 0.0,
        rates=summary.partial_success_rates or {},
        lengths=tuple(record.length for record in records),
        tasks=summary.per_task,
        remarks=(f"{side.name} departs from the benchmark. {' '.join(reasons)}",)
        if reasons
        else (),
    )


def _about(file: Published) -> str:
    counted = (
        "It does not say over how many chains, so there are no intervals."
        if file.lengths is None
        else "Intervals count the chains of both as independent."
    )
    return (
        f"{file.name} is {file.form}: it has rates and says nothing of assets, renderer, revision, "
        f"chains and rules, so nothing is paired and nothing was checked. {counted}"
    )
