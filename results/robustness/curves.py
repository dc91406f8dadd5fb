"""Geometry of the robustness page's plots; lengths in the units of each plot's own viewBox."""

from __future__ import annotations

from dataclasses import dataclass

from calvin_eval.results.gate_spec import TOP
from calvin_eval.results.robustness.suite import AxisResult, Suite

WIDTH, HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 288, 14, 160
_LEVELS = 6  # the clean run, and five levels
BAR_WIDTH, BAR_ROW = 640, 30
_BAR_LEFT, _BAR_RIGHT = 110, 560


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cell in a curve.

    Attributes:
        label: below it.
        x, y: of its average length.
        low, high: y of the interval's ends.
        title: what it says, in words.
    """

    label: str
    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Average length by level.

    Attributes:
        axis: its name.
        points: the clean run and the graded levels.
        line: of a polyline through them.
        band: of a polygon around their intervals.
        grid: y and text of the lines.
    """

    axis: str
    points: tuple[Point, ...]
    line: str
    band: str
    grid: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    bottom: int = _BOTTOM


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An axis in the profile.

    Attributes:
        axis: its name.
        text: the share that is kept, in per cent.
        y: of the bar's upper edge.
        width: of the bar.
    """

    axis: str
    text: str
    y: float
    width: float
    left: int = _BAR_LEFT


def curve(suite: Suite, axis: AxisResult) -> Curve | None:
    """The curve of an axis; None without a graded level or a clean chain."""
    if suite.clean.mean is None or not axis.graded:
        return None
    places = [(0, "clean", suite.clean)]
    places += [(int(c.name.level), str(c.name.level), c.lengths) for c in axis.graded]
    points = []
    for level, label, lengths in places:
        span, mean = lengths.interval(), lengths.mean
        if mean is not None:
            title = f"{label}: {mean:.2f} ({span.low:.2f} to {span.high:.2f})"
            x = round(_LEFT + (_RIGHT - _LEFT) * (level + 0.5) / _LEVELS, 1)
            ys = [_y(value) for value in (mean, span.low, span.high)]
            points.append(Point(label=label, x=x, y=ys[0], low=ys[1], high=ys[2], title=title))
    around = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in reversed(points)]
    return Curve(
        axis=axis.axis,
        points=tuple(points),
        line=_points([(p.x, p.y) for p in points]),
        band=_points(around),
        grid=tuple((_y(length), str(length)) for length in range(TOP + 1)),
    )


def profile(suite: Suite) -> tuple[Bar, ...]:
    """How much of the clean average length every axis leaves, the least first."""
    kept = [(axis.axis, axis.kept) for axis in suite.axes if axis.kept is not None]
    kept.sort(key=lambda entry: (entry[1], entry[0]))
    return tuple(
        Bar(
            axis=name,
            text=f"{100 * share:.0f} %",
            y=8 + BAR_ROW * i,
            width=round((_BAR_RIGHT - _BAR_LEFT) * min(share, 1.0), 1),
        )
        for i, (name, share) in enumerate(kept)
    )


def _y(length: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * length / TOP, 1)


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
