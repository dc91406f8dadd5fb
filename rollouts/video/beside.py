"""Two films in one: the same chain twice, side by side, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.replay import Step
from calvin_eval.rollouts.video.files import VideoFile
from calvin_eval.rollouts.video.films import HOLD_SECONDS, caption_of, verdict_of
from calvin_eval.rollouts.video.fonts import font
from calvin_eval.rollouts.video.frames import Caption, Frame, FrameComposer, Verdict
from calvin_eval.rollouts.video.square import look

SIDE: Final = 320
"""Pixels of each picture's height and width."""
FPS: Final = 30
_GAP: Final = 6  # pixels between the two


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One moment of one side.

    Attributes:
        image: (320, 320, 3) uint8.
        caption: of its subtask.
        step: of the subtask.
        verdict: of the subtask, at its end.
    """

    image: Frame
    caption: Caption
    step: int
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        label: what is written on it.
        shots: from the first moment to the last, of which there is one at least.
    """

    label: str
    shots: Iterator[Shot]


def recorded_shots(
    steps: Iterable[Step], record: ChainRecord, budget: int | None, first: int = 0
) -> Iterator[Shot]:
    """The shots of a recorded chain.

    Args:
        steps: the chain, simulated again.
        record: of it.
        budget: steps that a subtask may take; not shown if None.
        first: position of the first subtask that is shown.
    """
    for step in steps:
        if step.position < first:
            continue
        yield Shot(
            image=look(step, SIDE),
            caption=caption_of(record, step.position, budget),
            step=step.step,
            verdict=verdict_of(record, step.position) if step.last else None,
        )


def film_beside(target: Path, sides: Sequence[Side], fps: int = FPS) -> Path:
    """Write a film of the sides, from the left; a side that is over shows its end.

    Raises:
        OSError: the disk or the encoder refuses; nothing is left behind then.
        ReplayError: a chain's actions lead elsewhere than its record says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    hold = round(HOLD_SECONDS * fps)
    with ExitStack() as stack:
        film = stack.enter_context(VideoFile(target, fps))
        for frame in _frames(sides, hold):
            film.add(frame)
        return film.publish()


def _frames(sides: Sequence[Side], hold: int) -> Iterator[Frame]:
    """All frames; each side's end of a subtask stays for `hold` of them."""
    streams = [_held(side, FrameComposer([(SIDE, SIDE)]), hold) for side in sides]
    shown = [next(stream) for stream in streams]
    going = True
    while going:
        yield _joined(shown)
        after = [next(stream, None) for stream in streams]
        going = any(frame is not None for frame in after)
        shown = [
            before if frame is None else frame for before, frame in zip(shown, after, strict=True)
        ]


def _held(side: Side, composer: FrameComposer, hold: int) -> Iterator[Frame]:
    for shot in side.shots:
        image = _labelled(shot.image, side.label)
        frame = composer.compose([image], shot.caption, shot.step, shot.verdict)
        for _ in range(1 if shot.verdict is None else hold):
            yield frame


def _labelled(image: Frame, label: str) -> Frame:
    """The image with a word in its lower left corner, on a dark plate."""
    picture = Image.fromarray(image)
    pen, face = ImageDraw.Draw(picture, "RGBA"), font(15)
    width = round(float(face.getlength(label)))
    pen.rectangle((0, SIDE - 25, width + 18, SIDE), fill=(21, 24, 29, 200))
    pen.text((9, SIDE - 12), label, font=face, fill="white", anchor="lm")
    return np.asarray(picture)


def _joined(frames: Sequence[Frame]) -> Frame:
    height, width = frames[0].shape[:2]
    whole: Frame = np.full((height, (width + _GAP) * len(frames) - _GAP, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        left = i * (width + _GAP)
        whole[:, left : left + width] = frame
    return whole
