"""What one frame of a video looks like: the cameras side by side above a caption bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from calvin_eval.rollouts.video.fonts import find_font, font

Frame: TypeAlias = NDArray[np.uint8]
Verdict: TypeAlias = Literal["success", "failed", "error"]

_GAP = 4  # pixels between cameras
_FINER = 4  # shapes are drawn so much larger and scaled down, which smooths their edges
_UNREADABLE = "(no font on this machine has the letters of this instruction)"
_MANY = 10  # subtasks whose marks have their full width
_SMALLEST = 9  # pixels of a font that can still be read
_BAR, _TEXT, _FAINT, _EMPTY = "#15181d", "#f4f5f7", "#9aa3af", "#3a414c"
_COLOURS: dict[Verdict, str] = {"success": "#22a559", "failed": "#dc3d43", "error": "#d98a00"}


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is written throughout a subtask.

    Attributes:
        chain: its id.
        position: of the subtask in the chain, from 0.
        subtasks: in the chain.
        budget: steps that the subtask may take; not shown if None.
    """

    chain: int
    position: int
    subtasks: int
    task: str
    instruction: str
    budget: int | None


class FrameComposer:
    """Composes frames.

    Args:
        sizes: (width, height) of the cameras' images; the heights are equal.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._sizes = sizes
        self._height = height = sizes[0][1]
        self._large = max(12, round(height * 0.056))
        self._small = max(_SMALLEST, round(height * 0.036))
        self._pad = max(4, round(height * 0.032))
        self._line = max(2, round(height * 0.008))
        bar = 2 * self._pad + round(1.3 * self._large) + round(1.3 * self._small) + self._line
        width = sum(width for width, _ in sizes) + _GAP * (len(sizes) - 1)
        # H.264 with 4:2:0 colour has no odd sizes.
        self.size = (width + width % 2, height + bar + (height + bar) % 2)
        self._caption: Caption | None = None
        self._still = Image.new("RGB", self.size, _BAR)

    def compose(
        self, images: Sequence[Frame], caption: Caption, step: int, verdict: Verdict | None = None
    ) -> Frame:
        """One frame (H, W, 3) uint8.

        Args:
            images: of the cameras, (h, w, 3) uint8 in the sizes given at construction.
            caption: the subtask.
            step: steps taken so far.
            verdict: how it ended, once it has.
        """
        if caption != self._caption:
            self._caption, self._still = caption, self._write_caption(caption)
        frame = self._still.copy()
        self._write_step(frame, caption, step, verdict)
        x = 0
        for image, (width, _) in zip(images, self._sizes, strict=True):
            frame.paste(Image.fromarray(image), (x, 0))
            x += width + _GAP
        if verdict is not None:
            badge = _badge(verdict, max(14, round(self._height * 0.085)))
            frame.paste(badge, (self._pad, self._pad), badge)
        return np.asarray(frame)

    @property
    def _rows(self) -> tuple[int, int]:
        """Upper ends of the two lines of text."""
        first = self._height + self._line + self._pad
        return first, first + round(1.3 * self._large)

    def _write_caption(self, caption: Caption) -> Image.Image:
        """All of the caption that does not change from step to step."""
        still = Image.new("RGB", self.size, _BAR)
        first, second = self._rows
        room = self.size[0] - 2 * self._pad
        path = find_font(caption.instruction)
        said = _UNREADABLE if path is None else " ".join(caption.instruction.split())
        text, face = _fit(said, self._large, room, path or "")
        draw = ImageDraw.Draw(still)
        middle = first + round(0.65 * self._large)
        draw.text((self._pad, middle), text, font=face, fill=_TEXT, anchor="lm")
        middle = second + round(0.65 * self._small)
        pills = self._pills(caption)
        where = (
            f"chain {caption.chain}   {caption.position + 1}/{caption.subtasks}   {caption.task}"
        )
        taken = pills.width + self._pad + self._counter_width(caption)
        text, face = _fit(where, self._small, room - taken)
        draw.text((self._pad, middle), text, font=face, fill=_FAINT, anchor="lm")
        return still

    def _write_step(
        self, frame: Image.Image, caption: Caption, step: int, verdict: Verdict | None
    ) -> None:
        """The counter, and the line that grows with it."""
        draw = ImageDraw.Draw(frame)
        width, top = self.size[0], self._height
        colour = _COLOURS[verdict] if verdict else "#4f9cf9"
        share = 1.0 if verdict or not caption.budget else min(1.0, step / caption.budget)
        draw.rectangle((0, top, width, top + self._line - 1), fill=_EMPTY)
        length = round(width * share) if verdict or caption.budget else 0
        if length:
            draw.rectangle((0, top, length - 1, top + self._line - 1), fill=colour)
        pills = self._pills(caption, verdict)
        middle = self._rows[1] + round(0.65 * self._small)
        corner = (width - self._pad - pills.width, middle - pills.height // 2)
        frame.paste(pills, corner, pills)
        place = (corner[0] - self._pad, middle)
        draw.text(place, _counter(caption, step), font=font(self._small), fill=_TEXT, anchor="rm")

    def _counter_width(self, caption: Caption) -> int:
        widest = caption.budget or 999
        return round(float(font(self._small).getlength(_counter(caption, widest)))) + 2 * self._pad

    def _pills(self, caption: Caption, verdict: Verdict | None = None) -> Image.Image:
        """One mark per subtask of the chain: done, current, to come."""
        ends: list[str] = [_COLOURS["success"]] * caption.position
        ends.append(_COLOURS[verdict] if verdict else _TEXT)
        ends += [_EMPTY] * (caption.subtasks - len(ends))
        width, height = round(1.4 * self._small), round(0.5 * self._small)
        if caption.subtasks > _MANY:  # a third of the frame for all of them
            width = max(1, self.size[0] // (3 * caption.subtasks) - max(2, height // 2))
        return _row_of_pills(tuple(ends), width, height)


def reduced(image: Frame, times: int) -> Frame:
    """An image in which every `times` x `times` pixels have become one, their mean."""
    return image if times == 1 else np.asarray(Image.fromarray(image).reduce(times))


def _counter(caption: Caption, step: int) -> str:
    return f"step {step}" if caption.budget is None else f"step {step} / {caption.budget}"


def _fit(text: str, size: int, room: int, path: str = "") -> tuple[str, Any]:
    """The text in the largest size of a font, up to `size`, that fits; cut off where none does."""
    least = max(_SMALLEST, round(0.6 * size))
    for pixels in range(size, least - 1, -1):
        if font(pixels, path).getlength(text) <= room:
            return text, font(pixels, path)
    face = font(least, path)
    while text and face.getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text.rstrip()}...", face


@lru_cache(maxsize=64)
def _row_of_pills(colours: tuple[str, ...], width: int, height: int) -> Image.Image:
    height = max(3, height)
    pitch = width + max(2, height // 2)
    size = (pitch * len(colours) - (pitch - width), height)
    large = Image.new("RGBA", (size[0] * _FINER, size[1] * _FINER), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    for i, colour in enumerate(colours):
        left = i * pitch * _FINER
        box = (left, 0, left + width * _FINER - 1, height * _FINER - 1)
        draw.rounded_rectangle(box, radius=height * _FINER // 2, fill=colour)
    return large.resize(size, Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _badge(verdict: Verdict, height: int) -> Image.Image:
    """A tick, a cross or an exclamation mark with a word, on a pill of its colour."""
    unit = height * _FINER
    face = font(round(0.55 * unit))
    width = round(1.05 * unit + face.getlength(verdict) + 0.45 * unit)
    large = Image.new("RGBA", (width, unit), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    draw.rounded_rectangle((0, 0, width - 1, unit - 1), radius=unit // 2, fill=_COLOURS[verdict])
    strokes: dict[Verdict, list[list[tuple[float, float]]]] = {
        "success": [[(0.32, 0.53), (0.48, 0.68), (0.78, 0.34)]],
        "failed": [[(0.38, 0.33), (0.72, 0.67)], [(0.72, 0.33), (0.38, 0.67)]],
        "error": [[(0.55, 0.25), (0.55, 0.55)], [(0.55, 0.72), (0.55, 0.73)]],
    }
    thick = unit * 0.1
    for stroke in strokes[verdict]:
        points = [(x * unit, y * unit) for x, y in stroke]
        draw.line(points, fill="white", width=round(thick), joint="curve")
        for x, y in points:  # round ends
            end = thick / 2
            draw.ellipse((x - end, y - end, x + end, y + end), fill="white")
    draw.text((1.0 * unit, 0.5 * unit), verdict, font=face, fill="white", anchor="lm")
    return large.resize((round(width / _FINER), height), Image.Resampling.LANCZOS)
