"""Textures as Bullet uploads them."""

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
