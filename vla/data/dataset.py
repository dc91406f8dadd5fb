"""A CALVIN split as a torch data set: windows of frames, read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.annotations import Segment, read_language
from calvin_eval.vla.data.augment import RandomShift
from calvin_eval.vla.data.format import FrameCache, FrameReader, find_frames
from calvin_eval.vla.data.transform import Images
from calvin_eval.vla.data.windows import Windows


def raw_images(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images as they were recorded: (T, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a sample is.

    Attributes:
        window: W, frames that a model sees.
        chunk: n, actions that it predicts.
        skip: every how manieth window of a segment is a sample.
        cameras: images to read.
        future_images: whether the images of the n frames to come are read. Only a model that
            predicts images looks at them.
        actions: "rel_actions", or "actions" for absolute poses.
        extra: further arrays to read, such as `scene_obs` or `depth_static`.
        remember: frames that each process keeps, see `FrameCache`. Shuffled windows need no more
            than a window; one after another they overlap.
        seed: of the shifts.
    """

    window: int = 8
    chunk: int = 10
    skip: int = 1
    cameras: tuple[str, ...] = ("rgb_static", "rgb_gripper")
    future_images: bool = True
    actions: str = "rel_actions"
    extra: tuple[str, ...] = ()
    remember: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        names = (*self.cameras, *self.arrays)
        # A sample's `actions` are the chosen ones, so the other kind has no name there.
        if len(set(names)) < len(names) or {"actions", "rel_actions"} & set(self.extra):
            raise UsageError(
                f"expected different arrays and one kind of actions, found {', '.join(names)}"
            )

    @property
    def arrays(self) -> tuple[str, ...]:
        """What is read of every frame; images are read of those that are shown."""
        return (self.actions, "robot_obs", *self.extra)


class CalvinDataset(Dataset[dict[str, Any]]):
    """All windows of a split's segments.

    Nothing but the annotations is read before a sample is asked for. A sample depends on its
    index, the seed and the epoch alone, not on the worker that makes it.

    Args:
        folder: the split, `training` or `validation`.
        options: what a sample is.
        segments: what to use of it, from `annotations`; all annotated segments if None.
        images: makes a network's images, such as `Preprocess.images`.
        shifts: camera -> how its images are shifted, after `images`.

    Attributes:
        frames: the files.
        segments: what windows are made of.
        windows: the frames of each sample.

    Raises:
        UsageError: no frames, no annotations, or no segment as long as a window.
    """

    def __init__(
        self,
        folder: Path,
        options: ReadOptions | None = None,
        *,
        segments: Sequence[Segment] | None = None,
        images: Images = raw_images,
        shifts: Mapping[str, RandomShift] | None = None,
    ) -> None:
        self.options = options or ReadOptions()
        self.segments = list(read_language(folder) if segments is None else segments)
        spans = [(segment.start, segment.end) for segment in self.segments]
        self.windows = Windows(
            spans, window=self.options.window, chunk=self.options.chunk, skip=self.options.skip
        )
        if not len(self.windows):
            raise UsageError(
                f"{folder}: expected a segment of more than {self.options.window} frames, found "
                f"none among {len(self.segments)}"
            )
        self.frames = find_frames(folder)
        self._cache: FrameReader = FrameCache(self.frames, self.options.remember)
        self._images, self._shifts = images, dict(shifts or {})
        # In shared memory, since workers that live on would not see a plain number change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def read_from(self, reader: FrameReader, images: Images) -> None:
        """Take frames from elsewhere, such as a `FrameMemory`.

        Args:
            reader: of frames.
            images: makes a network's images of what the reader has for a camera.
        """
        self._cache, self._images = reader, images

    def set_epoch(self, epoch: int) -> None:
        """Choose the shifts of an epoch, in all workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample of T = W + n frames.

        Returns:
            rgb_static, rgb_gripper, ... as cameras: (T, 3, S, S) of the image function's type, or
                (W, 3, S, S) without future images.
            actions: (T, 7) float32. robot_obs: (T, 15) float32.
            mask: (T,) bool, False where the segment is over.
            text, task: of the segment.
            Each of `extra`: (T, ...) of its own type.

        Raises:
            IndexError: no such window.
            UsageError: a frame that is missing or damaged.
        """
        options = self.options
        segment, numbers, mask = self.windows[index]
        # Distinct numbers keep their order: a window only ever repeats its last frame.
        distinct, places = np.unique(numbers, return_inverse=True)
        shown = places if options.future_images else places[: options.window]
        count, names = int(shown[-1]) + 1, options.arrays
        frames = [
            self._cache.read(int(number), names if i >= count else (*options.cameras, *names))
            for i, number in enumerate(distinct)
        ]
        sample: dict[str, Any] = {}
        rng = np.random.default_rng([options.seed, int(self._epoch), index % len(self)])
        for camera in options.cameras:
            made = self._images([frame[camera] for frame in frames[:count]])
            shift = self._shifts.get(camera)
            made = made[torch.from_numpy(shown)]
            sample[camera] = made if shift is None else shift(made, rng)
        for name in names:
            sample[name] = torch.from_numpy(np.stack([frames[place][name] for place in places]))
        sample["actions"] = sample.pop(options.actions).float()
        sample["robot_obs"] = sample["robot_obs"].float()
        sample["mask"] = torch.from_numpy(mask)
        return {**sample, "text": self.segments[segment].text, "task": self.segments[segment].task}
