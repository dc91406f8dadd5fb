"""A robustness suite that was run: its cells, what breaks first, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import RunFolderError
from calvin_eval.files import write_atomic
from calvin_eval.results.comparability import policy_line, policy_sha256, protocol_facts
from calvin_eval.results.header import HEADER, Header
from calvin_eval.results.paired import holm
from calvin_eval.results.robustness.cells import (
    Cell,
    CellName,
    PlaceLoss,
    TaskLoss,
    measure,
    place_losses,
    task_losses,
)
from calvin_eval.results.robustness.honesty import Honesty, honesty
from calvin_eval.results.robustness.stopping import Lengths, looked_at
from calvin_eval.results.store import RunFolder

SCHEMA: Final = 1
FILE: Final = "robustness.json"
PAGE: Final = "robustness.html"
CLEAN: Final = "clean"
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class AxisResult:
    """What one axis does, all its graded levels together.

    Attributes:
        axis: its name.
        cells: graded ones by level, then the probes.
        tasks: that break first.
        places: of the chain.
    """

    axis: str
    cells: tuple[Cell, ...]
    tasks: tuple[TaskLoss, ...]
    places: tuple[PlaceLoss, ...]

    @property
    def graded(self) -> list[Cell]:
        """The cells of levels 1 to 5."""
        return [cell for cell in self.cells if cell.name.graded]

    @property
    def kept(self) -> float | None:
        """Average length under the graded levels as a share of the clean one on these chains."""
        pairs = [pair for cell in self.graded for pair in cell.pairs]
        clean = sum(a.length for a, _ in pairs)
        return sum(b.length for _, b in pairs) / clean if clean else None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a robustness suite found.

    Attributes:
        header: of the clean run.
        planned: chains of every run.
        clean: lengths of the clean run's chains.
        width: at which interval a cell stops, see `Tight`.
        axes: in the order of the plan.
        missing: cells that are planned and have no chain yet.
        honesty: what the probes say; None without them.
    """

    header: Header
    planned: int
    clean: Lengths
    width: float
    axes: tuple[AxisResult, ...]
    missing: tuple[CellName, ...]
    honesty: Honesty | None

    @property
    def cells(self) -> list[Cell]:
        """All of them."""
        return [cell for axis in self.axes for cell in axis.cells]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be run."""
        done = self.clean.completed == self.planned
        return done and not self.missing and all(cell.complete for cell in self.cells)

    @property
    def policy(self) -> str:
        """One line about the policy."""
        return policy_line(self.header)

    def to_json(self) -> dict[str, Any]:
        """JSON values: the same for the same records, whenever and wherever they were made."""
        span = self.clean.interval()
        p = holm({str(cell.name): cell.p for cell in self.cells if cell.p is not None})
        document = {
            "schema": SCHEMA,
            "policy": {"description": self.policy, "sha256": policy_sha256(self.header)},
            "split": self.header.config.split,
            "protocol": protocol_facts(self.header),
            "planned": self.planned,
            "stop_width": self.width,
            "complete": self.complete,
            "clean": {
                "folder": CLEAN,
                "lengths": list(self.clean.counts),
                "broken": [list(span) for span in self.clean.broken],
                "average_length": self.clean.mean,
                "interval": [span.low, span.high],
            },
            "cells": [{**c.to_json(), "p_holm": p.get(str(c.name))} for c in self.cells],
            "missing": [str(name) for name in self.missing],
            "axes": {axis.axis: _axis_json(axis) for axis in self.axes},
            "language": None if self.honesty is None else self.honesty.to_json(),
        }
        rounded: dict[str, Any] = _rounded(document)
        return rounded

    def write(self, folder: Path) -> Path:
        """Write `robustness.json`, and return its path."""
        path = folder / FILE
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        try:
            write_atomic(path, text.encode())
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
        return path


def read_suite(
    folder: Path,
    names: Sequence[CellName],
    width: float,
    told: Mapping[int, bool] | None = None,
    unasked: Mapping[int, bool] | None = None,
) -> Suite:
    """Measure the run folders of a suite.

    Args:
        folder: of the suite.
        names: of the planned cells; axes keep the order in which they come first.
        width: see `Tight`.
        told: see `honesty`.
        unasked: see `honesty`.

    Raises:
        RunFolderError: the clean run is not there, or a run cannot be read.
    """
    run = RunFolder.open(folder / CLEAN)
    header = run.header()
    clean = {record.chain: record for record in run.records()}
    used, _ = looked_at(clean, header.planned, 0)
    cells = list(_measured(folder, names, clean, width))
    done = {cell.name for cell in cells}
    axes = tuple(
        _axis(axis, [cell for cell in cells if cell.name.axis == axis])
        for axis in dict.fromkeys(cell.name.axis for cell in cells)
    )
    spoken = [cell for axis in axes if axis.axis == "language" for cell in axis.cells]
    return Suite(
        header=header,
        planned=len(header.planned),
        clean=Lengths.of(used, sequential=len(used) < len(header.planned)),
        width=width,
        axes=axes,
        missing=tuple(name for name in names if name not in done),
        honesty=honesty(spoken, told or {}, unasked or {}),
    )


def _measured(
    folder: Path, names: Sequence[CellName], clean: Mapping[int, Any], width: float
) -> Iterator[Cell]:
    for name in names:
        if not (folder / name.folder / HEADER).is_file():
            continue
        run = RunFolder.open(folder / name.folder)
        records = {record.chain: record for record in run.records()}
        cell = measure(name, records, run.header().planned, clean, width)
        if cell.used:
            yield cell


def _axis(axis: str, cells: Sequence[Cell]) -> AxisResult:
    ordered = sorted(cells, key=lambda c: (not c.name.graded, c.name.graded and c.name.level))
    graded = [cell for cell in ordered if cell.name.graded]
    return AxisResult(
        axis=axis,
        cells=tuple(ordered),
        tasks=task_losses(graded),
        places=place_losses(graded),
    )


def _axis_json(axis: AxisResult) -> dict[str, Any]:
    return {
        "kept": axis.kept,
        "tasks": [{**asdict(task), "drop": task.drop} for task in axis.tasks],
        "positions": [asdict(place) for place in axis.places],
    }


def _rounded(value: Any) -> Any:
    """Floats to six decimals: the same on every machine, whatever its mathematical library."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
