"""Whether a policy listens: what it does where it is told nothing, nonsense or another task.

Only the first subtask of every chain counts: all runs start it in the same state, and one chain
gives one independent attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from calvin_eval.results.metrics import Count
from calvin_eval.results.robustness.cells import Cell

Listens: TypeAlias = Literal["yes", "in part", "no", "unknown"]

_TOLD: Final = {"empty": "nothing", "nonsense": "nonsense", "another": "another task"}
SILENT: Final = tuple(_TOLD)
"""The probes whose words do not name the chain's task."""
_FEW: Final = 5  # first subtasks that the clean run did: with fewer there is nothing to lose


@dataclass(frozen=True, kw_only=True)
class Probe:
    """First subtasks under a probe.

    Attributes:
        level: the probe's name.
        clean: successes of the clean run in the chain's own task, in the common chains.
        own: successes in the chain's own task under the probe, in these chains.
        told: chains in which the task that was named was done; None unless one was.
        unasked: chains of the clean run in which the same task was done without being named.
    """

    level: str
    clean: Count
    own: Count
    told: Count | None = None
    unasked: Count | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        named = {"clean": self.clean, "own": self.own, "told": self.told, "unasked": self.unasked}
        return {"level": self.level, **{name: _counted(count) for name, count in named.items()}}


@dataclass(frozen=True, kw_only=True)
class Honesty:
    """What the probes say.

    Attributes:
        probes: of the suite.
        listens: the verdict.
        sentence: the same for a reader, with numbers.
    """

    probes: tuple[Probe, ...]
    listens: Listens
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        probes = [probe.to_json() for probe in self.probes]
        return {"listens": self.listens, "sentence": self.sentence, "probes": probes}


def honesty(
    cells: Sequence[Cell], told: Mapping[int, bool], unasked: Mapping[int, bool]
) -> Honesty | None:
    """Judge the probes; None if the suite has none.

    Args:
        cells: of the axis `language`.
        told: by chain, whether the task that `language=another` named was done in the first
            subtask.
        unasked: by chain, whether that task was done in the clean run's first subtask.
    """
    probes = tuple(
        _probe(cell, told, unasked) for cell in cells if not cell.name.graded and cell.pairs
    )
    silent = [probe for probe in probes if probe.level in SILENT]
    if not silent:
        return None
    clean, own = (
        Count(
            success=sum(getattr(p, name).success for p in silent),
            total=sum(getattr(p, name).total for p in silent),
        )
        for name in ("clean", "own")
    )
    listens = _verdict(silent, clean, own)
    return Honesty(probes=probes, listens=listens, sentence=_sentence(listens, silent))


def _probe(cell: Cell, told: Mapping[int, bool], unasked: Mapping[int, bool]) -> Probe:
    both = [(a, b) for a, b in cell.pairs if a.subtasks and b.subtasks]
    level, chains = str(cell.name.level), [a.chain for a, _ in both]
    return Probe(
        level=level,
        clean=Count(success=sum(a.subtasks[0].success for a, _ in both), total=len(both)),
        own=Count(success=sum(b.subtasks[0].success for _, b in both), total=len(both)),
        told=_of(told, chains) if level == "another" else None,
        unasked=_of(unasked, chains) if level == "another" else None,
    )


def _of(done: Mapping[int, bool], chains: Sequence[int]) -> Count | None:
    known = [done[chain] for chain in chains if chain in done]
    return Count(success=sum(known), total=len(known)) if known else None


def _verdict(silent: Sequence[Probe], clean: Count, own: Count) -> Listens:
    """By the share of the clean run's success that is left without the task's name."""
    if max(probe.clean.success for probe in silent) < _FEW:
        return "unknown"
    kept = own.success / clean.success
    return "no" if kept >= 0.5 else "in part" if kept >= 0.1 else "yes"


def _sentence(listens: Listens, silent: Sequence[Probe]) -> str:
    if listens == "unknown":
        return (
            "Whether the policy listens cannot be told: even told its task, it did "
            f"{max(probe.clean.success for probe in silent)} of "
            f"{max(probe.clean.total for probe in silent)} first subtasks, and {_FEW} are needed."
        )
    start = {
        "yes": "The policy listens",
        "in part": "The policy listens in part",
        "no": "The policy does not listen",
    }[listens]
    shares = [f"{_share(probe.own)} when told {_TOLD[probe.level]}" for probe in silent]
    most = max((probe.clean for probe in silent), key=lambda count: count.total)
    text = (
        f"{start}: it did the chain's own task in {', '.join(shares)}, against "
        f"{_share(most)} of the first subtasks when told that task"
    )
    another = next((probe for probe in silent if probe.told is not None), None)
    if another is not None and another.told is not None:
        text += f"; the other task that it was told, it did in {_share(another.told)}"
        if another.unasked is not None:
            text += f", and in {_share(another.unasked)} when nobody told it to"
    return f"{text}."


def _share(count: Count) -> str:
    span = count.interval
    if span is None or count.rate is None:
        return "none"
    return f"{100 * count.rate:.0f} % ({100 * span.low:.0f} to {100 * span.high:.0f} %)"


def _counted(count: Count | None) -> dict[str, Any] | None:
    if count is None:
        return None
    span = count.interval
    return {
        "success": count.success,
        "total": count.total,
        "interval": None if span is None else [span.low, span.high],
    }
