"""Geometry of the plots; the templates draw it.

Lengths are in the units of the plot's own viewBox, y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calvin_eval.results.intervals import Interval

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 426, 22, 216
_CELL = 15
_LABELS = 146  # room for the names of tasks, left of a matrix and above it
_BAR = 0.62  # share of a bar's place that the bar fills


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One value in a plot.

    Attributes:
        label: what stands below it.
        text: the value, as it is written at the mark.
        x: of its centre.
        y: of the value.
        low: y of the interval's lower end.
        high: y of its upper end.
    """

    label: str
    text: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Marks over a vertical axis in per cent.

    Attributes:
        marks: from left to right.
        line: points of a polyline through the marks.
        band: points of a polygon around their intervals.
        grid: y and text of the axis' lines.
        half: half the width of a bar.
        bottom: y of zero.
    """

    marks: tuple[Mark, ...]
    line: str
    band: str
    grid: tuple[tuple[float, str], ...]
    half: float
    bottom: float = _BOTTOM
    left: float = _LEFT
    right: float = _RIGHT
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a mark is made of: a share of 0..1 and its interval, named."""

    label: str
    share: float
    interval: Interval


def plot(values: Sequence[Value], *, top: float = 1.0) -> Plot:
    """Place values side by side.

    Args:
        values: at least one.
        top: the share at the upper end of the axis.
    """
    place = (_RIGHT - _LEFT) / len(values)
    marks = tuple(
        Mark(
            label=value.label,
            text=f"{100 * value.share:.1f}",
            x=round(_LEFT + place * (i + 0.5), 2),
            y=_y(value.share, top),
            low=_y(value.interval.low, top),
            high=_y(value.interval.high, top),
        )
        for i, value in enumerate(values)
    )
    around = [(m.x, m.high) for m in marks] + [(m.x, m.low) for m in reversed(marks)]
    quarters = [top * i / 4 for i in range(5)]
    return Plot(
        marks=marks,
        line=_points([(m.x, m.y) for m in marks]),
        band=_points(around),
        grid=tuple((_y(share, top), f"{100 * share:g}") for share in quarters),
        half=round(min(place, 70) * _BAR / 2, 2),
    )


def axis_top(shares: Sequence[float]) -> float:
    """A round share that none of these exceeds, with some air for the numbers on the bars."""
    most = max(shares, default=0.0)
    return next((top for top in (0.2, 0.4, 0.6, 0.8) if most <= 0.92 * top), 1.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a matrix: a square whose area shows how much is known.

    Attributes:
        x: of its upper left corner.
        y: likewise.
        size: of its sides.
        level: 0 (nothing failed) to 5 (all did), for the colour.
        title: what it says, in words.
        key: what links it to rows of a table.
    """

    x: float
    y: float
    size: float
    level: int
    title: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Cells under and beside names.

    Attributes:
        rows: y of the centre and name of each row.
        columns: x of the centre and name of each column.
        cells: the cells that are not empty.
    """

    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    cells: tuple[Cell, ...]
    origin: float = _LABELS
    pitch: float = _CELL

    @property
    def width(self) -> float:
        """Of the whole plot."""
        return self.origin + len(self.columns) * self.pitch + 4

    @property
    def height(self) -> float:
        """Of the whole plot."""
        return self.origin + len(self.rows) * self.pitch + 4


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """What a cell is made of: its weight and failed share, both of 0..1, title and key."""

    weight: float
    share: float
    title: str
    key: str


def matrix(
    rows: Sequence[str], columns: Sequence[str], entries: Mapping[tuple[int, int], MatrixCell]
) -> Matrix:
    """Place entries, given by the index of their row and column."""
    cells = []
    for (row, column), entry in entries.items():
        size = round((_CELL - 2) * (0.3 + 0.7 * entry.weight**0.5), 2)
        off = (_CELL - size) / 2
        cells.append(
            Cell(
                x=round(_LABELS + column * _CELL + off, 2),
                y=round(_LABELS + row * _CELL + off, 2),
                size=size,
                level=level(entry.share),
                title=entry.title,
                key=entry.key,
            )
        )
    return Matrix(
        rows=tuple((_LABELS + (i + 0.5) * _CELL, name) for i, name in enumerate(rows)),
        columns=tuple((_LABELS + (i + 0.5) * _CELL, name) for i, name in enumerate(columns)),
        cells=tuple(cells),
    )


LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Upper ends of the levels 0..4 of a failed share; what is above the last has level 5."""


def level(share: float) -> int:
    """The colour of a failed share."""
    return sum(share > end for end in LEVELS)


def _y(share: float, top: float) -> float:
    inside = min(max(share / top, 0.0), 1.0)
    return round(_BOTTOM - (_BOTTOM - _TOP) * inside, 2)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
