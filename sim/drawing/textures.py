"""Textures as Bullet uploads them, and their mipmaps as OpenGL makes them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError


@lru_cache(maxsize=64)
def load_texture(path: Path) -> NDArray[np.uint8] | None:
    """Read an image.

    Args:
        path: of any format that Pillow reads.

    Returns:
        (H, W, 3) uint8, rows from the bottom up (row 0 is v = 0), an alpha channel dropped; None
        where there is no such image, which Bullet draws white.
    """
    try:
        with Image.open(path) as image:
            rows = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (OSError, UnidentifiedImageError):
        return None
    texture = np.ascontiguousarray(rows[::-1])
    texture.setflags(write=False)
    return texture


def mipmaps(texture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The texture (H, W, 3) uint8 and its halvings down to 1x1, each filtered from the one before.

    A level is half as large as the last, rounded down. Its texels are samples of the last level at
    their own centres with bilinear weights, which for even sizes is the mean of four texels.
    """
    levels = [np.ascontiguousarray(texture)]
    while max(levels[-1].shape[:2]) > 1:
        last = levels[-1].astype(np.float64)
        for axis in (0, 1):
            last = _halve(last, axis)
        levels.append(np.floor(last + 0.5).astype(np.uint8))
    return levels


def _halve(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Resample one axis to half its length, rounded down but at least 1."""
    size = values.shape[axis]
    half = max(size // 2, 1)
    centres = (np.arange(half) + 0.5) * size / half - 0.5
    low = np.floor(centres).astype(int)
    shape = [1, 1, 1]
    shape[axis] = half
    weight = (centres - low).reshape(shape)
    first = np.take(values, np.clip(low, 0, size - 1), axis=axis)
    second = np.take(values, np.clip(low + 1, 0, size - 1), axis=axis)
    blended: NDArray[np.float64] = first * (1 - weight) + second * weight
    return blended
