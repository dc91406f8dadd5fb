"""What the page of a suite shows: a moment of every cell side by side, what was said, and films."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from calvin_eval.foreign.text import printable
from calvin_eval.results.robustness.cells import Cell
from calvin_eval.results.robustness.suite import CLEAN, AxisResult, Suite

FRAMES = "frames"
"""Folder of the pictures in a suite's folder, each named after its cell."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A chain clean and shifted, next to each other.

    Attributes:
        path: relative to the suite's folder.
        cell: its axis and level.
        chain: the chain's id.
        clean: tasks in a row without the shift.
        shifted: likewise with it.
    """

    path: str
    cell: str
    chain: int
    clean: int
    shifted: int


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What there is to look at.

    Attributes:
        frames: JPEG, by the folder of a cell or `clean`.
        films: of chains.
    """

    frames: Mapping[str, bytes] = field(default_factory=dict)
    films: tuple[Film, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Look:
    """One picture in a row.

    Attributes:
        label: `clean`, or the level.
        image: JPEG in base64; empty where words are changed.
        words: what was said; empty where they are not changed.
    """

    label: str
    image: str = ""
    words: str = ""


def looks_of(suite: Suite, looks: Looks) -> dict[str, tuple[Look, ...]]:
    """By axis its row, the clean one first; axes without anything to show are left out."""
    rows = {axis.axis: _row(axis, looks) for axis in suite.axes}
    return {axis: row for axis, row in rows.items() if len(row) > 1}


def _row(axis: AxisResult, looks: Looks) -> tuple[Look, ...]:
    spoken = axis.axis == "language"
    row = [*_words(axis.cells[0], 0)] if spoken else [*_picture("clean", CLEAN, looks)]
    for cell in axis.cells:
        row += (
            _words(cell, 1) if spoken else _picture(str(cell.name.level), cell.name.folder, looks)
        )
    return tuple(row)


def _picture(label: str, name: str, looks: Looks) -> list[Look]:
    image = looks.frames.get(name)
    if image is None:
        return []
    return [Look(label=label, image=base64.b64encode(image).decode("ascii"))]


def _words(cell: Cell, side: int) -> list[Look]:
    """What the first subtask's instruction was in the clean run (0) or the cell's (1)."""
    records = next((pair for pair in cell.pairs if all(r.subtasks for r in pair)), None)
    if records is None:
        return []
    label = str(cell.name.level) if side else "clean"
    said = printable(records[side].subtasks[0].instruction).strip() or "(nothing)"
    return [Look(label=label, words=said)]


def to_film(suite: Suite, count: int) -> list[tuple[Cell, int]]:
    """Cells and the chain of each that lost most: the cells that lost most first.

    Args:
        suite: that was run.
        count: cells at most.
    """
    lost = [
        (max((a.length - b.length, -a.chain) for a, b in cell.pairs), cell)
        for cell in suite.cells
        if cell.pairs
    ]
    lost.sort(
        key=lambda one: (one[1].difference.estimate if one[1].difference else 0.0, -one[0][0])
    )
    return [(cell, -chain) for (_, chain), cell in lost[:count]]
