"""Two robustness suites, cell by cell, on the chains that both have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import RunFolderError
from calvin_eval.results.comparability import Difference, differing, policy_line
from calvin_eval.results.contrasts import common_chains
from calvin_eval.results.gate_spec import TOP
from calvin_eval.results.paired import Contrast, holm, sign_flip_test
from calvin_eval.results.robustness.document import read_written
from calvin_eval.results.robustness.stopping import LEVEL, interval_of, looked_at
from calvin_eval.results.robustness.suite import CLEAN
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder

COMPARED: Final = 1
"""Version of the JSON form of such a comparison."""


@dataclass(frozen=True, kw_only=True)
class CellPair:
    """A cell in both suites.

    Attributes:
        name: `clean`, or such as `start=3`.
        chains: that both completed and that count in both.
        first, other: average lengths of these.
        difference: other less first.
        p: by the exact sign-flip test; None where the data decided the number of chains.
    """

    name: str
    chains: int
    first: float
    other: float
    difference: Contrast
    p: float | None


@dataclass(frozen=True, kw_only=True)
class SuiteComparison:
    """Two suites.

    Attributes:
        names: of the folders.
        policies: a line about each.
        cells: that both have.
        only_first, only_other: cells that one of them lacks.
        differences: of the protocols, where the comparison was forced.
    """

    names: tuple[str, str]
    policies: tuple[str, str]
    cells: tuple[CellPair, ...]
    only_first: tuple[str, ...]
    only_other: tuple[str, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        p = holm({cell.name: cell.p for cell in self.cells if cell.p is not None})
        cells = [{**asdict(cell), "p_holm": p.get(cell.name)} for cell in self.cells]
        return {"schema": COMPARED, "kind": "robustness", **asdict(self), "cells": cells}


def compare_suites(
    first: str | os.PathLike[str], other: str | os.PathLike[str], *, force: bool = False
) -> SuiteComparison:
    """Compare the second suite with the first.

    Args:
        first: folder of the one.
        other: folder of the other.
        force: compare suites of different protocols.

    Raises:
        RunFolderError: they cannot be read, have no cell in common, or differ in protocol.
    """
    one, two = Path(first), Path(other)
    mine, theirs = read_written(one), read_written(two)
    differences = differing(mine.protocol, theirs.protocol)
    if differences and not force:
        raise RunFolderError(
            "expected suites of the same protocol, found differences. "
            f"{'; '.join(map(str, differences))}. Compare nevertheless with --force."
        )
    names = {str(c.name): c.name.folder for c in mine.cells}
    others = {str(c.name): c.name.folder for c in theirs.cells}
    common = {"clean": CLEAN, **{name: names[name] for name in names if name in others}}
    widths = (mine.stop_width, theirs.stop_width)
    cells = [
        cell
        for name, folder in common.items()
        for cell in _pairs(name, one / folder, two / folder, widths)
    ]
    if not cells:
        raise RunFolderError("expected suites with completed chains in common, found none")
    return SuiteComparison(
        names=(one.resolve().name, two.resolve().name),
        policies=(_policy(one), _policy(two)),
        cells=tuple(cells),
        only_first=tuple(name for name in names if name not in others),
        only_other=tuple(name for name in others if name not in names),
        differences=differences,
    )


def _policy(folder: Path) -> str:
    return policy_line(RunFolder.open(folder / CLEAN).header())


def _pairs(name: str, one: Path, two: Path, widths: tuple[float, float]) -> Iterator[CellPair]:
    """The cell, if both have completed chains of it in common."""
    clean = name == "clean"
    first, whole = _counted(one, 0 if clean else widths[0])
    other, also_whole = _counted(two, 0 if clean else widths[1])
    both = common_chains(first, other)
    if not both:
        return
    steps = [b.length - a.length for a, b in both]
    sequential = not (whole and also_whole)
    low, high = interval_of([(s, s) for s in steps], (-TOP, TOP), LEVEL, sequential)
    yield CellPair(
        name=name,
        chains=len(both),
        first=sum(a.length for a, _ in both) / len(both),
        other=sum(b.length for _, b in both) / len(both),
        difference=Contrast(estimate=sum(steps) / len(steps), low=low, high=high),
        p=None if sequential else sign_flip_test(steps),
    )


def _counted(folder: Path, width: float) -> tuple[dict[int, ChainRecord], bool]:
    """The completed chains of a run that count, and whether these are all that were planned."""
    run = RunFolder.open(folder)
    planned = run.header().planned
    used, _ = looked_at({r.chain: r for r in run.records()}, planned, width)
    done = {record.chain: record for record in used if record.status == "completed"}
    return done, len(used) == len(planned)
