"""Textures of our own: stripes, checks, grain and clouds in two colours, from a generator alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_SIZE: Final = 256  # pixels along each side
_OCTAVES: Final = 4


def generated(stream: np.random.RandomState) -> NDArray[np.uint8]:
    """A texture (256, 256, 3) that repeats without a seam."""
    pattern = _PATTERNS[stream.randint(len(_PATTERNS))](stream)
    one, other = stream.uniform(0.1, 0.95, (2, 3))
    colours = one + (other - one) * pattern[..., None]
    image: NDArray[np.uint8] = np.round(255 * colours).astype(np.uint8)
    return image


def _grid() -> tuple[FloatArray, FloatArray]:
    """Columns and rows (256, 256), 0..1."""
    along = np.arange(_SIZE) / _SIZE
    columns, rows = np.meshgrid(along, along)
    return columns, rows


def _stripes(stream: np.random.RandomState) -> FloatArray:
    columns, rows = _grid()
    across, down = stream.randint(0, 5, 2)
    wave = np.sin(2 * np.pi * ((across + 1) * columns + down * rows))
    found: FloatArray = (wave > 0).astype(float)
    return found


def _checks(stream: np.random.RandomState) -> FloatArray:
    columns, rows = _grid()
    count = 2 * stream.randint(1, 5)
    found: FloatArray = ((columns * count).astype(int) + (rows * count).astype(int)) % 2 * 1.0
    return found


def _clouds(stream: np.random.RandomState) -> FloatArray:
    """Smooth noise of several sizes, each half as strong as the one before."""
    total = np.zeros((_SIZE, _SIZE))
    for octave in range(_OCTAVES):
        cells = 4 * 2**octave
        values = stream.uniform(0, 1, (cells, cells))
        total += _smooth(values) / 2**octave
    found: FloatArray = (total - total.min()) / (total.max() - total.min())
    return found


def _grain(stream: np.random.RandomState) -> FloatArray:
    """Wood: rings that clouds disturb."""
    columns, _ = _grid()
    rings = stream.randint(3, 9)
    found: FloatArray = 0.5 + 0.5 * np.sin(2 * np.pi * (rings * columns + 0.8 * _clouds(stream)))
    return found


def _smooth(values: FloatArray) -> FloatArray:
    """A grid of numbers, read between them, that goes on at its other side."""
    cells = len(values)
    at = np.arange(_SIZE) * cells / _SIZE
    low = at.astype(int)
    part = at - low
    part = part * part * (3 - 2 * part)
    next_ = (low + 1) % cells
    rows = values[low] * (1 - part[:, None]) + values[next_] * part[:, None]
    found: FloatArray = rows[:, low] * (1 - part) + rows[:, next_] * part
    return found


_PATTERNS: Final[tuple[Callable[[np.random.RandomState], FloatArray], ...]] = (
    _stripes, _checks, _clouds, _grain,
)  # fmt: skip
