"""Random shifts of images, as CALVIN and RoboVLMs train with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calvin_eval.errors import UnknownNameError, UsageError

MODES = {
    "per_frame": (1, False),
    "per_frame_full": (0, False),
    "per_trajectory": (0, True),
}
"""Mode -> smallest crop offset, and whether all frames of a window share theirs."""


@dataclass(frozen=True)
class RandomShift:
    """Replicate the border `pad` times, then crop the old size anywhere.

    RoboVLMs does it after resizing and normalising, with a pad of 10 for the static camera and 4
    for the gripper's. A crop at `pad` is the image itself.

    Attributes:
        pad: pixels, or -1 for no shift.
        mode: "per_frame" draws both offsets of every frame from 1 ... 2 pad: RoboVLMs with
            `traj_cons`, which despite its name does not keep a window together and never draws 0.
            "per_frame_full" draws them from 0 ... 2 pad: without `traj_cons`. "per_trajectory"
            draws from 0 ... 2 pad once for all frames of a window.
    """

    pad: int = -1
    mode: str = "per_frame"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownNameError("shift mode", self.mode, MODES)
        if self.pad != -1 and self.pad < 1:
            raise UsageError(
                f"shift: expected a pad of at least 1, or -1 for none; found {self.pad}"
            )

    @classmethod
    def from_config(cls, dataset: Mapping[str, Any], key: str) -> RandomShift:
        """The shift that a RoboVLMs `train_dataset` section asks for.

        Args:
            dataset: the section.
            key: `rgb_pad` or `gripper_pad`.
        """
        mode = "per_frame" if dataset.get("traj_cons", True) else "per_frame_full"
        return cls(int(dataset.get(key, -1)), str(dataset.get("shift_mode", mode)))

    def draw(self, frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Crop offsets (frames, 2) of rows and columns."""
        low, shared = MODES[self.mode]
        offsets = rng.integers(low, 2 * self.pad + 1, size=(1 if shared else frames, 2))
        return np.broadcast_to(offsets, (frames, 2))

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Shifted images (T, C, H, W) of the same type."""
        if self.pad == -1:
            return images
        return shift(images, self.draw(len(images), rng), self.pad)


def shift(images: Tensor, offsets: NDArray[np.int64], pad: int) -> Tensor:
    """Crops (T, C, H, W) of images whose border was replicated `pad` times.

    Args:
        images: (T, C, H, W) of any type.
        offsets: (T, 2) row and column where each crop starts, 0 ... 2 pad.
        pad: pixels.
    """
    height, width = images.shape[-2:]
    rows, columns = torch.arange(height) - pad, torch.arange(width) - pad
    moved = [
        image.index_select(-2, (rows + down).clamp(0, height - 1)).index_select(
            -1, (columns + right).clamp(0, width - 1)
        )
        for image, (down, right) in zip(images, offsets.tolist(), strict=True)
    ]
    return torch.stack(moved)
