"""Conditions of a gate on causes of failures, which a diagnosis knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calvin_eval.errors import RunFolderError, UnknownNameError
from calvin_eval.results.bounds import clopper_pearson
from calvin_eval.results.causes import causes_of
from calvin_eval.results.diagnosis import CAUSES, DIAGNOSIS, read_diagnosis
from calvin_eval.results.gate_spec import Check, GateSpec
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder


def check_causes(spec: GateSpec) -> None:
    """Raise UnknownNameError for a condition on a cause that there is not."""
    for cause in spec.max_cause:
        if cause not in CAUSES:
            raise UnknownNameError("cause", cause, CAUSES)


def run_causes(folder: RunFolder) -> dict[int, str | None]:
    """By chain the cause of its failure; raises RunFolderError if the run was not diagnosed."""
    found = read_diagnosis(folder)
    if found is None:
        raise RunFolderError(
            f"{folder.path}: expected {DIAGNOSIS} for --max-cause, found none; make it by "
            f"`calvin-eval diagnose {folder.path}`"
        )
    return causes_of(found)


def cause_check(
    spec: GateSpec,
    cause: str,
    records: Sequence[ChainRecord],
    causes: Mapping[int, str | None],
) -> Check:
    """The share of chains that do not fail by a cause; one that is not known may be either."""
    known = [causes[record.chain] != cause for record in records if record.chain in causes]
    low, _ = clopper_pearson(sum(known), len(records), spec.level)
    _, high = clopper_pearson(sum(known) + len(records) - len(known), len(records), spec.level)
    return Check(
        name=f"chains that do not fail by {cause!r}",
        threshold=1 - spec.max_cause[cause],
        estimate=sum(known) / len(known) if known else None,
        low=low,
        high=high,
        level=spec.level,
        used=f"{len(known)} chains",
        method="Clopper-Pearson",
    )
