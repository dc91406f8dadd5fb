"""Failures as pictures on the page: a strip of frames, the course of the chain, and a film.

Lengths are in the units of a course's own viewBox, y downwards; numbers are whole, which keeps a
page of a thousand of them small.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from calvin_eval.results.diagnosis import Failure
from calvin_eval.results.illustrations import Illustration, Moment, Pictures, Span, Stretch

MOST_STRIP_BYTES: Final = 7_500_000
"""Of all strips of a page together, before base64: 1000 failures leave it below 15 MB."""

WIDTH, HEIGHT = 600, 62
_FLOOR, _ROOF = 30, 4  # of the progress
_LANES = (38, 46, 54)  # y of the target's contacts, of other contacts, of the closed hand


@dataclass(frozen=True, kw_only=True)
class Section:
    """One subtask in a course.

    Attributes:
        x: where it begins.
        width: of all its steps.
        task: its name.
        title: what it says, in words.
        failed: whether it failed.
    """

    x: int
    width: int
    task: str
    title: str
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Course:
    """What happened in a chain, from the left to the right.

    Attributes:
        sections: its subtasks.
        progress: points of a polyline for each of them.
        lanes: paths of lines where the target was touched, where anything else was, and where the
            hand was closed.
    """

    sections: tuple[Section, ...]
    progress: tuple[str, ...]
    lanes: tuple[str, str, str]
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, kw_only=True)
class Card:
    """A failure with its pictures.

    Attributes:
        failure: all of it.
        find: what a square of the matrices finds it by.
        strip: its frames, WebP in base64.
        moments: of the frames, from the left.
        course: of its chain.
        video: path of a film, relative to the run's folder; empty if there is none.
    """

    failure: Failure
    find: str
    strip: str
    moments: tuple[Moment, ...]
    course: Course
    video: str


def cards(
    failures: Iterable[tuple[Failure, str]],
    pictures: Pictures,
    first: Sequence[int],
    most_bytes: int = MOST_STRIP_BYTES,
) -> tuple[Card, ...]:
    """Those of the failures that have pictures, in their order.

    Args:
        failures: each with what it is found by.
        pictures: of the run.
        first: chains that are shown before others where there is no room for all.
        most_bytes: of all strips, before base64.
    """
    failures = tuple(failures)
    order = dict.fromkeys([*first, *(failure.chain for failure, _ in failures)])
    shown = set(pictures.first(list(order), most_bytes))
    return tuple(
        _card(failure, find, pictures.illustrations[failure.chain], pictures)
        for failure, find in failures
        if failure.chain in shown
    )


def _card(failure: Failure, find: str, found: Illustration, pictures: Pictures) -> Card:
    return Card(
        failure=failure,
        find=find,
        strip=base64.b64encode(found.strip).decode("ascii"),
        moments=found.moments,
        course=course(found.course),
        video=pictures.videos.get(failure.chain, ""),
    )


def course(stretches: Sequence[Stretch]) -> Course:
    """Place the subtasks of a chain side by side, each as wide as it has steps."""
    total = sum(stretch.steps for stretch in stretches) or 1
    sections, lines = [], []
    paths: tuple[list[str], list[str], list[str]] = ([], [], [])
    begin = 0
    for stretch in stretches:
        left, right = (round(WIDTH * at / total) for at in (begin, begin + stretch.steps))
        sections.append(_section(stretch, left, right))
        lines.append(_line(stretch.progress, left, right))
        for path, y, held in zip(
            paths, _LANES, (stretch.target, stretch.other, stretch.closed), strict=True
        ):
            path += [_dash(span, begin, total, y) for span in held]
        begin += stretch.steps
    target, other, closed = ("".join(path) for path in paths)
    return Course(sections=tuple(sections), progress=tuple(lines), lanes=(target, other, closed))


def _section(stretch: Stretch, left: int, right: int) -> Section:
    end = "done" if stretch.success else "failed"
    return Section(
        x=left,
        width=right - left,
        task=stretch.task,
        title=f"{stretch.task}: {end} after {stretch.steps} steps",
        failed=not stretch.success,
    )


def _line(progress: Sequence[float], left: int, right: int) -> str:
    step = (right - left) / max(len(progress) - 1, 1)
    return " ".join(
        f"{round(left + i * step)},{round(_FLOOR - (_FLOOR - _ROOF) * value)}"
        for i, value in enumerate(progress)
    )


def _dash(span: Span, begin: int, total: int, y: int) -> str:
    """A horizontal line, at least one unit long."""
    left, right = (round(WIDTH * (begin + at) / total) for at in span)
    return f"M{left} {y}h{max(right - left, 1)}"
