"""CALVIN's folders: where the frames are, what they are called, how one is read.

Facts of the format: CALVIN, dataset README; RoboVLMs, calvin_dataset. A data set has the folders
`training` and `validation`; in each is one file per frame, `episode_0000001.npz` or `.pkl`.
"""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.foreign.unpickle import PlainUnpickler
from calvin_eval.vla.data.npz import Array, read_npz

SPLITS = ("training", "validation")
_FRAME = re.compile(r"(?P<prefix>\D*)(?P<index>\d+)(?P<suffix>\.npz|\.pkl)")


@dataclass(frozen=True)
class Frames:
    """The frame files of a split.

    Attributes:
        folder: where they are.
        prefix: what their names start with, `episode_` in CALVIN's own data.
        digits: how many digits a frame's number has in a name, zeros in front included.
        suffix: `.npz` or `.pkl`.
    """

    folder: Path
    prefix: str
    digits: int
    suffix: str

    def path(self, index: int) -> str:
        """The file of a frame."""
        return os.path.join(self.folder, f"{self.prefix}{index:0{self.digits}d}{self.suffix}")

    def read(self, index: int, names: Sequence[str]) -> dict[str, Array]:
        """Arrays of a frame. No content of a file is ever run.

        Args:
            index: the frame's number.
            names: such as `rgb_static` (200, 200, 3) uint8, `rgb_gripper` (84, 84, 3) uint8,
                `robot_obs` (15,), `scene_obs` (24,), `rel_actions` (7,), `actions` (7,),
                `depth_static` (200, 200) and `depth_gripper` (84, 84) in metres.

        Raises:
            UsageError: the frame is missing, damaged, or lacks an array.
        """
        path = self.path(index)
        try:
            return read_npz(path, names) if self.suffix == ".npz" else _read_pkl(path, names)
        except FileNotFoundError as error:
            raise UsageError(f"no such frame: {path}; an annotation speaks of it") from error
        except KeyError as error:
            raise UsageError(f"{path}: {error.args[0]}") from error
        except Exception as error:  # a damaged archive or pickle raises anything
            raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _read_pkl(path: str, names: Sequence[str]) -> dict[str, Array]:
    with open(path, "rb") as file:
        content = PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"expected a dict, found {type(content).__name__}")
    missing = [name for name in names if name not in content]
    if missing:
        raise KeyError(f"no array {missing[0]}, only {', '.join(sorted(map(str, content)))}")
    return {name: np.asarray(content[name]) for name in names}


class FrameReader(Protocol):
    """Where a data set takes its frames from."""

    def read(self, index: int, names: Sequence[str]) -> Mapping[str, Any]:
        """At least these arrays of a frame, not to be changed; errors as in `Frames.read`."""
        ...


class FrameCache:
    """Reads frames and keeps the last ones: windows overlap, padded ones repeat a frame.

    A copy in another process starts empty.

    Args:
        frames: the files.
        size: frames kept, 0 for none; a frame with both images takes 0.14 MB.
    """

    def __init__(self, frames: Frames, size: int) -> None:
        self._frames, self._size = frames, size
        self._kept: OrderedDict[int, dict[str, Array]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def read(self, index: int, names: Sequence[str]) -> dict[str, Array]:
        """At least these arrays of a frame, not to be changed; errors as in `Frames.read`."""
        found = self._kept.pop(index, {})
        missing = [name for name in names if name not in found]
        if missing:
            found.update(self._frames.read(index, missing))
        self._kept[index] = found
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return found


def find_frames(folder: Path) -> Frames:
    """The naming of a split's frames, found from one file.

    Raises:
        UsageError: there is no folder or no frame.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected the folder of a CALVIN split, found none")
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _FRAME.fullmatch(entry.name)
            if match:
                return Frames(folder, match["prefix"], len(match["index"]), match["suffix"])
    inside = [split for split in SPLITS if (folder / split).is_dir()]
    hint = f" Name its folder {' or '.join(inside)}." if inside else ""
    raise UsageError(f"{folder}: expected frames such as episode_0000001.npz, found none.{hint}")
