"""Deciding a gate on a run that is over.

Where every planned chain has a record, the number of chains was fixed in advance and ordinary
intervals apply: that of `means` for means, Clopper and Pearson's for a task's rate. Where chains
are missing, the run may have been stopped by what it showed, and only intervals that hold at every
moment are right: those of `sequential`, on the chains up to the first missing one.

A chain that ended by an error counts as the shortest that it may have been for the lower bound,
and as the longest for the upper.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.errors import RunFolderError, UnknownNameError, UsageError
from calvin_eval.results.bounds import clopper_pearson
from calvin_eval.results.card import Card, read_card
from calvin_eval.results.comparability import CHAINS, differing, protocol_facts
from calvin_eval.results.compared import read_run
from calvin_eval.results.gate_causes import cause_check, check_causes, run_causes
from calvin_eval.results.gate_spec import TOP, Check, Decision, GateSpec
from calvin_eval.results.header import Header
from calvin_eval.results.means import difference_bounds, mean_bounds
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.sequential import SequentialGate, possible_attempts, possible_lengths
from calvin_eval.results.store import RunFolder

MEAN = "Gaffke"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a run must not fall behind.

    Attributes:
        name: of the run or the card.
        facts: its protocol, see `protocol_facts`.
        lengths: of its completed chains, by id; None if only their counts are known.
        counts: how many of its chains had length 0, 1, ...
    """

    name: str
    facts: Mapping[str, Any]
    lengths: Mapping[int, int] | None
    counts: tuple[int, ...]


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """A run folder or a checkpoint card; raises RunFolderError if it is neither."""
    if Path(path).is_file():
        return card_baseline(read_card(path), Path(path).name)
    run = read_run(path)
    lengths = {chain: possible_lengths(record)[0] for chain, record in run.records.items()}
    if not lengths:
        raise RunFolderError(
            f"{run.folder}: expected a baseline with completed chains, found none. Complete it "
            "with --resume, or name another."
        )
    counts = np.bincount(list(lengths.values()), minlength=TOP + 1)
    return Baseline(
        name=run.name,
        facts=protocol_facts(run.header),
        lengths=lengths,
        counts=tuple(counts.tolist()),
    )


def card_baseline(card: Card, name: str) -> Baseline:
    """A card as a baseline: its counts of lengths, without single chains."""
    return Baseline(name=name, facts=card.protocol, lengths=None, counts=card.lengths)


def decide_run(
    run: str | os.PathLike[str],
    spec: GateSpec,
    baseline: Baseline | None = None,
    *,
    force: bool = False,
) -> Decision:
    """Check a run folder against a gate.

    Args:
        run: the folder.
        spec: the conditions.
        baseline: needed for `max_drop`.
        force: compare with a baseline of another protocol; the decision then says so.

    Raises:
        UsageError: `max_drop` without a baseline.
        UnknownNameError: a task that none of the run's chains has.
        RunFolderError: no run, no record, or a baseline of another protocol.
    """
    folder = RunFolder.open(run)
    header, records = folder.header(), folder.records()
    if not records:
        raise RunFolderError(f"{folder.path}: expected a run with records, found none yet")
    remarks: tuple[str, ...] = ()
    if baseline is not None:
        remarks = check_baseline(header, baseline, force=force)
        if baseline.facts.get(CHAINS) != protocol_facts(header)[CHAINS]:
            baseline = replace(baseline, lengths=None)  # the same id is another chain there
    causes = run_causes(folder) if spec.max_cause else None
    decision = decide(spec, records, header.planned, baseline, causes)
    return replace(decision, remarks=(*remarks, *decision.remarks))


def check_baseline(header: Header, baseline: Baseline, *, force: bool) -> tuple[str, ...]:
    """Remarks on a baseline of another protocol; raises RunFolderError unless that is forced."""
    found = differing(protocol_facts(header), baseline.facts)
    if not found:
        return ()
    listed = "; ".join(map(str, found))
    if not force:
        raise RunFolderError(
            f"expected the baseline {baseline.name} to have the run's assets, revision, renderer "
            f"and protocol, found differences. {listed}. Choose another baseline, or compare "
            "nevertheless with --force."
        )
    return (f"Forced: the baseline {baseline.name} differs from the run in {listed}.",)


def decide(
    spec: GateSpec,
    records: Sequence[ChainRecord],
    planned: Sequence[int],
    baseline: Baseline | None = None,
    causes: Mapping[int, str | None] | None = None,
) -> Decision:
    """Decide from the records of a run that is over.

    Args:
        spec: the conditions.
        records: at most one per chain, in any order.
        planned: ids of the run's chains in the order of the list.
        baseline: needed for `max_drop`.
        causes: needed for `max_cause`, see `causes_of`.

    Raises:
        UsageError: `max_drop` without a baseline that can serve, or `max_cause` of a run that is
            not complete.
        UnknownNameError: a task that none of the chains has, or a cause that there is not.
    """
    check_causes(spec)
    tasks = {task for record in records for task in record.tasks}
    for task in spec.min_task:
        if task not in tasks:
            raise UnknownNameError("task of the run's chains", task, sorted(tasks))
    if spec.max_drop is not None and baseline is None:
        raise UsageError(
            "expected a baseline for max-drop, found none; name a run folder or a card by "
            "--baseline"
        )
    missing = len(set(planned) - {record.chain for record in records})
    if missing and spec.max_cause:
        raise UsageError(
            f"expected a complete run for max-cause, found {missing} of {len(planned)} chains "
            "missing; complete it by --resume, and diagnose it again"
        )
    if missing:
        return _decide_unfinished(spec, records, planned, baseline)
    of_causes = [cause_check(spec, cause, records, causes or {}) for cause in spec.max_cause]
    return Decision(
        checks=(*_checks(spec, records, baseline), *of_causes),
        confidence=spec.confidence,
        sequential=False,
        planned=len(planned),
        used=len(records),
        remarks=_error_remarks(records),
    )


def _decide_unfinished(
    spec: GateSpec,
    records: Sequence[ChainRecord],
    planned: Sequence[int],
    baseline: Baseline | None,
) -> Decision:
    gate = SequentialGate(spec, planned, baseline.lengths if baseline else None)
    for record in records:
        gate.add(record)
    state = gate.state()
    remark = (
        f"{len(planned) - len(records)} of {len(planned)} chains are missing: the intervals are "
        f"those that hold at every moment, on the first {state.used} chains of the list."
    )
    return replace(state, remarks=(remark, *_error_remarks(records)))


def _error_remarks(records: Sequence[ChainRecord]) -> tuple[str, ...]:
    errors = sum(record.status == "error" for record in records)
    if not errors:
        return ()
    return (
        f"{errors} chains ended by an error; they count as the worst and as the best that they "
        "may have been.",
    )


def _checks(
    spec: GateSpec, records: Sequence[ChainRecord], baseline: Baseline | None
) -> list[Check]:
    checks = []
    spans = {record.chain: possible_lengths(record) for record in records}
    known = [record.length for record in records if record.status == "completed"]
    if spec.min_avg_len is not None:
        low, high = mean_bounds(list(spans.values()), (0, TOP), spec.level)
        checks.append(
            Check(
                name="average length",
                threshold=spec.min_avg_len,
                estimate=sum(known) / len(known) if known else None,
                low=low,
                high=high,
                level=spec.level,
                used=f"{len(known)} chains",
                method=MEAN,
            )
        )
    if spec.max_drop is not None and baseline is not None:
        checks.append(_drop_check(spec, spans, baseline))
    checks += [_task_check(spec, task, records) for task in spec.min_task]
    return checks


def _drop_check(spec: GateSpec, spans: Mapping[int, tuple[int, int]], baseline: Baseline) -> Check:
    assert spec.max_drop is not None
    base = baseline.lengths or {}
    common = {chain: span for chain, span in spans.items() if chain in base}
    if common:
        steps = [(low - base[chain], high - base[chain]) for chain, (low, high) in common.items()]
        low, high = mean_bounds(steps, (-TOP, TOP), spec.level)
        known = [a for a, b in steps if a == b]
        estimate = sum(known) / len(known) if known else None
        used, method = f"{len(common)} common chains", f"{MEAN}, paired"
    else:
        lengths = np.repeat(np.arange(len(baseline.counts)), baseline.counts).tolist()
        low, high = difference_bounds(list(spans.values()), lengths, TOP, spec.level)
        known = [a for a, b in spans.values() if a == b]
        estimate = sum(known) / len(known) - sum(lengths) / len(lengths) if known else None
        used, method = f"{len(spans)} and {len(lengths)} chains", f"{MEAN}, unpaired"
    return Check(
        name=f"average length less {baseline.name}'s",
        threshold=-spec.max_drop,
        estimate=estimate,
        low=low,
        high=high,
        level=spec.level,
        used=used,
        method=method,
    )


def _task_check(spec: GateSpec, task: str, records: Sequence[ChainRecord]) -> Check:
    attempts = [span for record in records for span in possible_attempts(record, task)]
    known = [worst for worst, best in attempts if worst == best]
    low, _ = clopper_pearson(sum(worst for worst, _ in attempts), len(attempts), spec.level)
    _, high = clopper_pearson(sum(best for _, best in attempts), len(attempts), spec.level)
    return Check(
        name=f"task {task}",
        threshold=spec.min_task[task],
        estimate=sum(known) / len(known) if known else None,
        low=low,
        high=high,
        level=spec.level,
        used=f"{len(known)} attempts",
        method="Clopper-Pearson",
    )
