"""A data set to look at: a contact sheet of its demonstrations, and a video of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import Annotation, BrokenFrameError, Split
from calvin_eval.rollouts.video.files import VideoFile

FPS: Final = 30

_THUMB = 120  # pixels
_CAPTION = 18
_COLUMNS = 6  # moments of a demonstration, the first and the last among them


def choose(split: Split, count: int, task: str | None = None) -> list[Annotation]:
    """Some demonstrations, spread evenly over the split.

    Raises:
        UsageError: there are none.
    """
    found = [a for a in split.annotations or () if task in (None, a.task)]
    if not found:
        wanted = f"of {task}" if task else "with a sentence"
        raise UsageError(f"expected demonstrations {wanted} in {split.path}, found none")
    places = np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))
    return [found[int(place)] for place in places]


def contact_sheet(split: Split, shown: Sequence[Annotation], path: Path) -> Path:
    """Write an image with a row for each demonstration: what the static camera saw over time.

    Raises:
        UsageError: frames cannot be read, or have no images.
    """
    row = _THUMB + _CAPTION
    sheet = Image.new("RGB", (_COLUMNS * _THUMB, row * len(shown)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, demonstration in enumerate(shown):
        top = number * row
        moments = np.linspace(demonstration.first, demonstration.last, _COLUMNS).round()
        caption = (
            f"{demonstration.first}-{demonstration.last}  {demonstration.task}: "
            f"{demonstration.text}"
        )
        pen.text((3, top + 1), caption, fill="black", font=font)
        for column, moment in enumerate(map(int, moments)):
            image = Image.fromarray(_image(split, moment, "static")).resize((_THUMB, _THUMB))
            sheet.paste(image, (column * _THUMB, top + _CAPTION))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def write_videos(split: Split, shown: Sequence[Annotation], folder: Path) -> Iterator[Path]:
    """Write a video of each demonstration, both cameras side by side.

    Raises:
        UsageError: frames cannot be read, or have no images.
        OSError: the encoder cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for demonstration in shown:
        path = folder / f"{split.name}_{demonstration.first:07d}{_suffix(demonstration)}.mp4"
        with VideoFile(path, FPS) as video:
            for index in range(demonstration.first, demonstration.last + 1):
                video.add(_side_by_side(split, index))
            yield video.publish()


def _suffix(demonstration: Annotation) -> str:
    return f"_{demonstration.task}" if demonstration.task else ""


def _side_by_side(split: Split, index: int) -> NDArray[np.uint8]:
    static = _image(split, index, "static")
    height = static.shape[0]
    gripper = Image.fromarray(_image(split, index, "gripper")).resize((height, height))
    return np.concatenate([static, np.asarray(gripper, np.uint8)], axis=1)


def _image(split: Split, index: int, camera: str) -> NDArray[np.uint8]:
    try:
        image: Any = split.read(index, (f"rgb_{camera}",))[f"rgb_{camera}"]
    except BrokenFrameError as error:
        raise UsageError(f"{error}; `calvin-eval dataset check` tells what is missing") from error
    if image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(
            f"frame {index}: expected rgb_{camera} of shape (height, width, 3), found {image.shape}"
        )
    return np.asarray(image, np.uint8)
