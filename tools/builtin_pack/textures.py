"""Procedural wood, and the floor's checks, as PNG bytes.

An image holds few shades along one line from dark to light wood: one byte per pixel, a palette.
The files are written without compression, so that the same bytes come out whatever compression
library Python was built with; a wheel compresses them anyway. (Fewer bits per pixel would do
for the colours, but Bullet's image reader knows eight only.)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

SIZE = 192
CHECKS_SIZE = 128
SHADES = 15
GREY = (101, 101, 101)
# The right end of an image is grey, for the handles of door and drawer.
WOOD_WIDTH = 177
GREY_UV = (0.965, 0.5)


def texture(name: str) -> bytes:
    """Returns the PNG of one wood."""
    field, dark, light = _WOODS[name]
    value = np.clip(field(), 0.0, 1.0)
    index = np.minimum((value * SHADES).astype(int), SHADES - 1)
    index[:, WOOD_WIDTH:] = SHADES
    mix = (np.arange(SHADES) + 0.5)[:, None] / SHADES
    shades = np.rint(np.array(dark) * (1 - mix) + np.array(light) * mix).astype(int)
    return png(index, [*map(tuple, shades.tolist()), GREY])


def checks() -> bytes:
    """Returns the floor's image: two by two squares, the first one (lower left) grey."""
    cell = np.arange(CHECKS_SIZE) // (CHECKS_SIZE // 2)
    light = (cell[:, None] + cell[None, :]) % 2 == 0
    return png(light.astype(int), [(222, 222, 222), (255, 255, 255)])


def swatches(colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Returns an image of equally wide upright stripes, one per colour."""
    index = np.repeat(np.arange(len(colours)), 8)
    return png(np.tile(index, (8, 1)), list(colours))


def png(index: np.ndarray, palette: Sequence[tuple[int, ...]]) -> bytes:
    """Encodes a palette image.

    Args:
        index: (height, width) palette entries, top row first.
        palette: RGB colours.
    """
    height, width = index.shape
    raw = b"".join(b"\0" + row.tobytes() for row in index.astype(np.uint8))
    header = struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)
    colours = bytes(channel for colour in palette for channel in colour)
    chunks = [(b"IHDR", header), (b"PLTE", colours), (b"IDAT", _stored(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _stored(raw: bytes) -> bytes:
    """Wraps bytes in a zlib stream of stored blocks."""
    blocks = [raw[start : start + 65535] for start in range(0, len(raw), 65535)]
    body = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block
        for block in blocks
    )
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(raw))


def _noise(seed: int, along: int, across: int) -> np.ndarray:
    """Returns smooth noise in 0..1 with the given number of cells; it repeats across the grain."""
    grid = np.random.Generator(np.random.PCG64(seed)).random((across, along + 3))
    rows = _blend(np.vstack([grid, grid[:3]]), across)
    return np.asarray(_blend(rows.T, along).T)


def _blend(grid: np.ndarray, cells: int) -> np.ndarray:
    """Interpolates ``cells + 3`` rows to SIZE rows by a quadratic spline."""
    place = np.arange(SIZE) * cells / SIZE
    first = place.astype(int)
    t = (place - first)[:, None]
    weights = ((1 - t) ** 2 / 2, (1 + 2 * t - 2 * t * t) / 2, t * t / 2)
    return np.asarray(sum(w * grid[first + k] for k, w in enumerate(weights)))


def _spread(values: np.ndarray) -> np.ndarray:
    """Shifts and stretches values: mean 0.5, and 0.8 between the 5 and 95 per cent marks."""
    low, high = np.percentile(values, (5, 95))
    return np.asarray(0.5 + 0.8 * (values - values.mean()) / (high - low))


def _rings(seed: int, count: float, wave: float, bend: int) -> np.ndarray:
    """Returns growth rings: ``count`` bands across the image, bent by noise of ``bend`` cells."""
    across = np.arange(SIZE)[:, None] / SIZE
    shift = wave * (_noise(seed, bend, 4) - 0.5) + 0.3 * wave * (
        _noise(seed + 1, 2 * bend, 9) - 0.5
    )
    phase = (across + shift) * count
    saw = phase - np.floor(phase)
    # A slow rise and a quick fall, as early and late wood.
    return np.asarray(np.where(saw < 0.8, saw / 0.8, (1 - saw) / 0.2))


def _mahogany() -> np.ndarray:
    flecks = _noise(11, 70, 190) + 0.8 * _noise(12, 16, 150)
    return _spread(flecks + 0.7 * _noise(13, 6, 60) + 0.5 * _noise(14, 3, 10))


def _birch() -> np.ndarray:
    lines = _noise(21, 2, 70) + 0.9 * _noise(22, 6, 190)
    return _spread(lines + 0.5 * _noise(23, 2, 9))


def _oak() -> np.ndarray:
    lines = _rings(31, 40, 0.06, 3)
    fine = 0.8 * _noise(33, 6, 190) + 0.5 * _noise(35, 50, 190)
    return _spread(0.35 * lines + fine + 0.5 * _noise(34, 3, 14))


def _elm() -> np.ndarray:
    lines = _rings(41, 38, 0.16, 4)
    pores = 0.5 * _noise(43, 8, 190) + 0.5 * _noise(45, 60, 190)
    return _spread(0.4 * lines + pores + 0.3 * _noise(44, 4, 18))


_Colour = tuple[float, float, float]


def _ends(mean: _Colour, low: float, high: float) -> tuple[_Colour, _Colour]:
    """Returns the darkest and lightest wood for a mean colour and the middle 90 % of red."""
    widen = (high - low) / 8
    darkest, lightest = (low - widen) / mean[0], (high + widen) / mean[0]
    return (
        (mean[0] * darkest, mean[1] * darkest, mean[2] * darkest),
        (
            min(mean[0] * lightest, 255.0),
            min(mean[1] * lightest, 255.0),
            min(mean[2] * lightest, 255.0),
        ),
    )


_WOODS: dict[str, tuple[Callable[[], np.ndarray], _Colour, _Colour]] = {
    "mahogany": (_mahogany, *_ends((121, 70, 46), 101, 138)),
    "birch": (_birch, *_ends((244, 196, 140), 232, 255)),
    "oak": (_oak, *_ends((159, 108, 64), 141, 173)),
    "elm": (_elm, *_ends((156, 117, 78), 128, 178)),
}
