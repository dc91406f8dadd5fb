"""A split of a data set in CALVIN's format, as it lies on disk.

Facts of the format: CALVIN, dataset README; RoboVLMs, data set classes. One `.npz` per frame with a
number in its name; `ep_start_end_ids.npy` and the annotations name ranges, both ends included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.foreign.annotations import find_annotations
from calvin_eval.foreign.archives import ArchiveError
from calvin_eval.foreign.arrays import read_arrays
from calvin_eval.foreign.unpickle import load_plain

SPLITS: Final = ("training", "validation")
RANGES: Final = "ep_start_end_ids.npy"

_FRAME = re.compile(r"(?P<prefix>.*?)(?P<index>\d+)\.npz")
_SCENE = re.compile(r"calvin_(?:scene|table)_([ABCD])")


class BrokenFrameError(UsageError):
    """A frame that is missing, cannot be read, or lacks an array."""


@dataclass(frozen=True)
class Annotation:
    """A sentence for frames `first` to `last`, both included."""

    first: int
    last: int
    text: str
    task: str


class Split(Protocol):
    """One split of a data set, in whatever format, by CALVIN's names.

    Attributes:
        path: its folder.
        parts: which numbers of an array there are, where some are not; those are NaN.
        native: whether its frames are files of CALVIN's own format.
    """

    path: Path
    parts: Mapping[str, Sequence[int]]
    native: bool

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def frames(self) -> Mapping[int, Path]:
        """File by the frame's number, ascending."""

    @property
    def ranges(self) -> NDArray[np.int64]:
        """(E, 2) first and last frame of every episode, both included."""

    @property
    def annotations(self) -> tuple[Annotation, ...] | None:
        """Its sentences; None if there are none."""

    @property
    def scenes(self) -> Mapping[str, tuple[int, int]]:
        """First and last frame of every scene; empty if nobody says so."""

    def scene(self, index: int) -> str | None:
        """Which scene a frame shows; None if nobody says so."""

    def read(self, index: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Arrays of a frame, or BrokenFrameError."""


class SplitFolder:
    """One split.

    Args:
        path: the folder that holds the frames.

    Raises:
        UsageError: there are no frames in it.

    Attributes:
        frames: file by the frame's number, ascending.
    """

    native = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: Mapping[str, Sequence[int]] = {}
        found = {}
        for file in path.iterdir() if path.is_dir() else ():
            if match := _FRAME.fullmatch(file.name):
                found[int(match["index"])] = file
        if not found:
            raise UsageError(f"expected frames such as episode_0000001.npz in {path}, found none")
        self.frames: Mapping[int, Path] = dict(sorted(found.items()))

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.name

    def read(self, index: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Arrays of a frame; all if no names are given.

        Raises:
            BrokenFrameError: there is no such frame, it is damaged, or an array is missing.
        """
        file = self.frames.get(index)
        if file is None:
            raise BrokenFrameError(f"there is no frame {index} in {self.path}")
        try:
            return read_arrays(file, names or None)
        except KeyError as error:
            raise BrokenFrameError(f"{file.name}: {error.args[0]}") from error
        except (ArchiveError, OSError) as error:
            raise BrokenFrameError(
                f"{file.name} cannot be read ({type(error).__name__}: {error})"
            ) from error

    @cached_property
    def ranges(self) -> NDArray[np.int64]:
        """(E, 2) first and last frame of every episode, both included.

        Raises:
            UsageError: the file is missing or holds something else.
        """
        path = self.path / RANGES
        try:
            ranges = np.load(path, allow_pickle=False)
        except Exception as error:
            raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
        if ranges.ndim != 2 or ranges.shape[1] != 2 or ranges.dtype.kind not in "iu":
            raise UsageError(
                f"{path}: expected pairs of frame numbers, found {ranges.dtype} {ranges.shape}"
            )
        return np.asarray(ranges, np.int64)

    @cached_property
    def annotations(self) -> tuple[Annotation, ...] | None:
        """The language annotations; None if the split has none.

        Raises:
            UsageError: they are damaged, or hold something else.
        """
        path = find_annotations(self.path)
        if path is None:
            return None
        content = load_plain(path)
        try:
            spans = [(int(a), int(b)) for a, b in content["info"]["indx"]]
            language = content["language"]
            texts, tasks = map(str, language["ann"]), map(str, language["task"])
            rows = list(zip(spans, texts, tasks, strict=True))
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise UsageError(
                f"{path}: expected a dict with info.indx, language.ann and language.task of one "
                f"length ({type(error).__name__}: {error})"
            ) from error
        return tuple(Annotation(a, b, text, task) for (a, b), text, task in rows)

    def scene(self, index: int) -> str | None:
        """Which scene a frame shows, as far as the folder says so."""
        for scene, (first, last) in self.scenes.items():
            if first <= index <= last:
                return scene
        return self._only_scene

    @cached_property
    def scenes(self) -> Mapping[str, tuple[int, int]]:
        """First and last frame of every scene, from `scene_info.npy`; empty if there is none."""
        path = self.path / "scene_info.npy"
        if not path.is_file():
            return {}
        content = load_plain(path)
        scenes = {}
        try:
            for name, (first, last) in content.items():
                if match := _SCENE.search(str(name)):
                    scenes[match[1]] = int(first), int(last)
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: expected scenes with two frame numbers each") from error
        return scenes

    @cached_property
    def _only_scene(self) -> str | None:
        path = self.path / ".hydra/merged_config.yaml"
        try:
            table = yaml.safe_load(path.read_text(encoding="utf-8"))
            file = str(table["scene"]["objects"]["fixed_objects"]["table"]["file"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
            return None
        match = _SCENE.search(file)
        return match[1] if match else None


def annotated_split(path: Path) -> Path:
    """The folder of the one split whose annotations are meant.

    Args:
        path: a split, or the folder that holds them: then `validation` comes before `training`.
    """
    if not any(path.glob("*.npz")):
        for name in reversed(SPLITS):
            if find_annotations(path / name) is not None:
                return path / name
    return path


def open_splits(path: Path) -> list[SplitFolder]:
    """The splits of a data set, or the one split that a path names.

    Raises:
        UsageError: there is none.
    """
    found = [path / name for name in SPLITS if any((path / name).glob("*.npz"))]
    if not found and not path.is_dir():
        raise UsageError(f"no such folder: {path}")
    return [SplitFolder(folder) for folder in found or [path]]
