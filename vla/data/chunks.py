"""Sliding windows over tensors: from a sequence to the chunk that follows every frame.

What each function computes: RoboVLMs, data_utils and its trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from calvin_eval.errors import UnknownNameError, UsageError


def claw_matrix(size: int, width: int) -> Tensor:
    """(size, size) float32: 1 where 0 <= column - row <= width."""
    ones = torch.ones(size, size)
    return torch.triu(ones) * torch.tril(ones, diagonal=width)


def generate_chunk(data: Tensor, window: int, chunk: int, *, after: bool = False) -> Tensor:
    """The chunk of every frame of a window.

    Args:
        data: (B, W + n, ...).
        window: W.
        chunk: n.
        after: False puts frame w + c at [:, w, c], so that a frame's own action is its chunk's
            first and the last element of `data` is never used; True puts frame w + 1 + c there,
            for images to come.

    Returns:
        (B, W, n, ...), a view.

    Raises:
        UsageError: the data has another length.
    """
    if data.shape[1] != window + chunk:
        raise UsageError(f"expected {window + chunk} frames of data, found {data.shape[1]}")
    return data.unfold(1, chunk, 1).movedim(-1, 2)[:, int(after) :][:, :window]


def get_tensor_chunk(data: Tensor, chunk: int) -> Tensor:
    """All sliding windows (T - n + 1, n, ...) of a sequence (T, ...), a view."""
    return data.unfold(0, chunk, 1).movedim(-1, 1)


def pad_sequences(rows: Sequence[Tensor], value: Any) -> Tensor:
    """Tensors (..., L) of different L, padded on the right and stacked: (B, ..., Lmax)."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([F.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])


def get_chunked_episode(
    mode: str, left_pad: bool, window: int, chunk: int, frames: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Windows over a whole episode, for data that has no annotated segments.

    Args:
        mode: "sliding", or "range", which repeats every window W times with histories of W,
            W - 1, ... 1 frames.
        left_pad: whether windows that start before the episode count; its first frame is
            repeated there.
        window: W.
        chunk: n.
        frames: (T,) their numbers.

    Returns:
        Numbers (rows, W + n) and whether each lies in the episode and in the window's history.
    """
    if mode not in ("sliding", "range"):
        raise UnknownNameError("window mode", mode, ("sliding", "range"))
    rows = np.arange(0 if left_pad else window - 1, len(frames))
    columns = np.arange(window + chunk)
    places = rows[:, None] + columns - (window - 1)
    mask = (places >= 0) & (places < len(frames))
    places = places.clip(0, len(frames) - 1)
    if mode == "range":
        history = np.arange(window)[:, None] <= columns
        places = np.repeat(places, window, axis=0)
        mask = np.repeat(mask, window, axis=0) & np.tile(history, (len(rows), 1))
    return frames[places], mask
