"""All frames of a split in memory, decoded and resized once: an epoch then costs no decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calvin_eval.vla.data.dataset import CalvinDataset
from calvin_eval.vla.data.format import Frames
from calvin_eval.vla.data.transform import Images

Watch = Callable[[int, int], None]
"""Called with how many of how many frames are decoded."""


class FrameMemory:
    """Frames that were read once.

    Args:
        frames: the files.
        numbers: of the frames to read.
        cameras: images to keep.
        arrays: other arrays to keep.
        resize: makes images (T, 3, S, S) of recorded ones, such as `Preprocess.resize`; what it
            makes is what is kept.
        watch: called with how far the reading is.

    Raises:
        UsageError: a frame is missing or damaged.
    """

    def __init__(
        self,
        frames: Frames,
        numbers: Iterable[int],
        *,
        cameras: Sequence[str],
        arrays: Sequence[str],
        resize: Images,
        watch: Watch | None = None,
    ) -> None:
        wanted = sorted(set(numbers))
        self._rows = {number: row for row, number in enumerate(wanted)}
        self._images: dict[str, Tensor] = {}
        self._arrays: dict[str, list[Any]] = {name: [None] * len(wanted) for name in arrays}

        def take(row: int) -> tuple[int, dict[str, Any]]:
            content = frames.read(wanted[row], (*cameras, *arrays))
            return row, {**content, **{name: resize([content[name]])[0] for name in cameras}}

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # both inflating and resizing let go
            for done, (row, content) in enumerate(pool.map(take, range(len(wanted))), 1):
                self._keep(row, content, cameras)
                if watch is not None:
                    watch(done, len(wanted))

    def _keep(self, row: int, content: Mapping[str, Any], cameras: Sequence[str]) -> None:
        for name in cameras:
            if name not in self._images:
                like = content[name]
                self._images[name] = torch.empty((len(self._rows), *like.shape), dtype=like.dtype)
            self._images[name][row] = content[name]
        for name, kept in self._arrays.items():
            kept[row] = np.array(content[name])

    @property
    def nbytes(self) -> int:
        """Bytes that the images take."""
        return sum(images.nbytes for images in self._images.values())

    def read(self, index: int, names: Sequence[str]) -> Mapping[str, Any]:
        """A frame's arrays; images as they were resized."""
        row = self._rows[index]
        return {
            name: self._images[name][row] if name in self._images else self._arrays[name][row]
            for name in names
        }


def keep_in_memory(
    dataset: CalvinDataset, resize: Images, watch: Watch | None = None
) -> FrameMemory:
    """Decode all frames of a data set's segments now and serve its samples from them.

    The samples stay what they are if `resize` is the data set's own image function. Workers that
    are forked share the memory; several training processes on a machine do not.

    Args:
        dataset: changed in place.
        resize: see `FrameMemory`.
        watch: called with how far the reading is.
    """
    options = dataset.options
    memory = FrameMemory(
        dataset.frames,
        (n for segment in dataset.segments for n in range(segment.start, segment.end + 1)),
        cameras=options.cameras,
        arrays=options.arrays,
        resize=resize,
        watch=watch,
    )
    dataset.read_from(memory, lambda images: torch.stack(tuple(images)))  # type: ignore[arg-type]
    return memory
