"""Two runs' causes of failure, paired on the chain: what the other run cured, and what it broke.

A chain fails by one cause or by none. Per cause, the chains that fail by it in one run only are
counted, and McNemar's test asks whether their numbers differ by more than chance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from calvin_eval.errors import RunFolderError
from calvin_eval.results.compared import ComparedRun
from calvin_eval.results.diagnosis import CAUSES, Diagnosis, read_diagnosis
from calvin_eval.results.paired import holm, mcnemar
from calvin_eval.results.store import RunFolder


@dataclass(frozen=True, kw_only=True)
class CauseContrast:
    """One cause.

    Attributes:
        cause: its name.
        first, other: chains that fail by it.
        common: chains that were looked at in both runs.
        cured: chains that fail by it in the first run, and not by it in the other.
        broken: the reverse.
        p: McNemar's, exact.
        p_holm: corrected for the number of causes.
    """

    cause: str
    first: int
    other: int
    common: int
    cured: int
    broken: int
    p: float
    p_holm: float


def read_causes(run: ComparedRun) -> tuple[dict[int, str | None] | None, str | None]:
    """By chain the cause of its failure, None if all was done; and a remark if that is unknown.

    Without a diagnosis there are neither causes nor a remark.
    """
    try:
        found = read_diagnosis(RunFolder.open(run.folder))
    except RunFolderError as error:
        return None, f"Causes are left out: {error}"
    return (None, None) if found is None else (causes_of(found), None)


def causes_of(found: Diagnosis) -> dict[int, str | None]:
    """By chain that was looked at, the cause of its failure; None if all was done."""
    failed: Mapping[int, str] = {failure.chain: failure.cause for failure in found.failures}
    return {int(chain): failed.get(int(chain)) for chain in found.lengths}


def cause_contrasts(
    first: Mapping[int, str | None], other: Mapping[int, str | None], chains: Collection[int]
) -> tuple[CauseContrast, ...]:
    """Per cause that occurs in either run, in the order of the rules.

    Args:
        first: of one run, see `causes_of`.
        other: of the other.
        chains: that both runs completed.
    """
    both = [(first[c], other[c]) for c in chains if c in first and c in other]
    known = [cause for cause in CAUSES if any(cause in pair for pair in both)]
    only = {
        cause: (
            sum(a == cause != b for a, b in both),
            sum(b == cause != a for a, b in both),
        )
        for cause in known
    }
    p = {cause: mcnemar(*counts) for cause, counts in only.items()}
    corrected = holm(p)
    return tuple(
        CauseContrast(
            cause=cause, common=len(both), p=p[cause], p_holm=corrected[cause],
            first=sum(a == cause for a, _ in both), other=sum(b == cause for _, b in both),
            cured=only[cause][0], broken=only[cause][1],
        )
        for cause in known
    )  # fmt: skip
