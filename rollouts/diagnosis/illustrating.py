"""Frames of a failed subtask, drawn while its chain is simulated once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from typing import Final

import numpy as np
from PIL import Image

from calvin_eval.results.diagnosis import Failure
from calvin_eval.results.illustrations import Illustration, Moment, Span, Stretch
from calvin_eval.rollouts.diagnosis.watching import TABLE, Trace, watch
from calvin_eval.rollouts.replay import Step
from calvin_eval.rollouts.video.frames import Frame
from calvin_eval.rollouts.video.square import look
from calvin_eval.sim.world import World

SIDE: Final = 96
"""Pixels of a frame's height and width."""
_QUALITY: Final = 35
_POINTS: Final = 30  # of the progress of one subtask
_EMPTY: Final = (128, 128, 128)  # where there is no picture


def illustrate(
    world: World,
    steps: Iterator[Step],
    failure: Failure,
    trace: Trace,
    expert: Frame | None,
) -> Illustration:
    """Draw what happened to a chain.

    Args:
        world: the simulator's.
        steps: the chain, simulated again with an oracle and a renderer; taken to its end.
        failure: of its last subtask.
        trace: of the same subtask.
        expert: of the state in which the expert ended, from where the subtask began; None if it
            did not try.
    """
    moments = _moments(failure)
    wanted = {step for _, step in moments if step is not None}
    drawn: dict[int, Frame] = {}
    course = []
    for (position, task), states in groupby(steps, key=lambda step: (step.position, step.task)):
        if position == failure.position:
            for state in states:
                if state.step in wanted:
                    drawn[state.step] = look(state, SIDE)
            course.append(_stretch(failure.task, trace, success=False))
        else:
            course.append(_stretch(str(task), watch(world, states), success=True))
    pictures = [None if step is None else drawn[step] for _, step in moments]
    return Illustration(
        chain=failure.chain,
        strip=_encode([*pictures, expert]),
        moments=(*(_described(*moment) for moment in moments), _of_expert(failure)),
        course=tuple(course),
    )


def _moments(failure: Failure) -> list[tuple[str, int | None]]:
    return [
        ("start", 0),
        ("closest", failure.closest_step),
        ("contact", failure.habits.first_contact),
        ("best", failure.best_step),
        ("end", failure.steps),
    ]


def _described(name: str, step: int | None) -> Moment:
    return Moment(name=name, note="none" if step is None else f"step {step}")


def _of_expert(failure: Failure) -> Moment:
    attempt = failure.from_begin
    if attempt is None:
        note = "not asked"
    elif failure.obstacle is not None:
        note = "not tried"
    else:
        note = f"{'in' if attempt.solved else 'not in'} {attempt.steps} steps"
    return Moment(name="expert", note=note)


def _stretch(task: str, trace: Trace, *, success: bool) -> Stretch:
    targets = set(trace.meter.objects)
    at = np.linspace(0, trace.steps, min(_POINTS, trace.steps + 1)).round().astype(int)
    return Stretch(
        task=task,
        success=success,
        steps=trace.steps,
        progress=tuple(round(float(trace.progress[i]), 3) + 0.0 for i in at),
        target=spans([bool(names & targets) for names in trace.touched]),
        other=spans([bool(names - targets - {TABLE}) for names in trace.touched]),
        closed=spans([bool(command < 0) for command in trace.command]),
    )


def spans(held: Sequence[bool]) -> tuple[Span, ...]:
    """First and last index of every run of true values."""
    found, end = [], 0
    for value, group in groupby(held):
        begin, end = end, end + len(list(group))
        if value:
            found.append((begin, end - 1))
    return tuple(found)


def _encode(pictures: Sequence[Frame | None]) -> bytes:
    """Frames side by side, as WebP."""
    strip = Image.new("RGB", (SIDE * len(pictures), SIDE), _EMPTY)
    for i, picture in enumerate(pictures):
        if picture is not None:
            strip.paste(Image.fromarray(picture), (SIDE * i, 0))
    file = BytesIO()
    strip.save(file, "WEBP", quality=_QUALITY, method=6)
    return file.getvalue()
