"""Windows that slide over segments: which frames a sample has, and which of them are real."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError


class Window(NamedTuple):
    """One sample.

    Attributes:
        segment: number of the segment it lies in.
        frames: (T,) int64, the numbers of its frames.
        mask: (T,) bool, False where the segment is over and its last frame is repeated.
    """

    segment: int
    frames: NDArray[np.int64]
    mask: NDArray[np.bool_]


class Windows:
    """All windows of some segments (RoboVLMs, calvin_dataset).

    In a segment from frame s to frame e a window starts at every s, s + skip, ... up to e - W,
    and is T = W + n frames long: W observed ones, and n more for actions and images to come. From
    frame e on it repeats frame e, and those rows are masked.

    Only where segments start is kept in memory; a window is computed when asked for.

    Args:
        spans: first and last frame of each segment, both included.
        window: W.
        chunk: n.
        skip: every how manieth start counts.

    Raises:
        UsageError: a number below 1.
    """

    def __init__(
        self, spans: Iterable[tuple[int, int]], *, window: int, chunk: int, skip: int = 1
    ) -> None:
        if min(window, chunk, skip) < 1:
            raise UsageError(
                f"expected window, chunk and skip of at least 1, found {window}, {chunk}, {skip}"
            )
        self._window, self._chunk, self._skip = window, chunk, skip
        self._spans = np.array(list(spans), np.int64).reshape(-1, 2)
        starts = self._spans[:, 1] - self._spans[:, 0] + 1 - window
        self._ends: list[int] = np.cumsum(-(-starts.clip(0) // skip)).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Window]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Window:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        index %= len(self)
        segment = bisect_right(self._ends, index)
        within = index - (self._ends[segment - 1] if segment else 0)
        first, last = self._spans[segment]
        frames = first + within * self._skip + np.arange(self._window + self._chunk)
        return Window(segment, np.minimum(frames, last), frames < last)
