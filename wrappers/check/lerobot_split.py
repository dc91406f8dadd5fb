"""A data set in LeRobot's format, read as a split of CALVIN's: the same names, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.splits import Annotation, BrokenFrameError
from calvin_eval.sim.symbolic import TASK_NAMES
from calvin_eval.wrappers.check.lerobot_files import read_image, read_numbers, read_video
from calvin_eval.wrappers.check.lerobot_meta import EpisodeMeta, read_meta
from calvin_eval.wrappers.loaders.lerobot.cameras import CAMERAS, guess_camera

STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "rel_actions": ("rel_actions", "action", "actions"),
    "robot_obs": ("observation.robot_obs", "robot_obs", "observation.state", "state"),
    "scene_obs": (
        "observation.scene_obs", "scene_obs", "observation.environment_state",
        "environment_state",
    ),
}  # fmt: skip
"""CALVIN's arrays, and the features that hold them where nothing else is said."""
NAMES: Final = (*STATES, *(f"rgb_{camera}" for camera in CAMERAS))

_PARTS: Final[Mapping[int, tuple[int, ...]]] = {
    15: tuple(range(15)),
    8: (*range(7), 14),
    7: tuple(range(7)),
}
"""Which of the 15 numbers of `robot_obs` a state of so many numbers has."""


class LeRobotSplit:
    """A data set in LeRobot's format, with the interface of `SplitFolder`.

    An episode is a demonstration: it has one sentence, and no name of a task unless the sentence
    is one.

    Args:
        path: the folder that holds `meta`.
        keys: CALVIN's name -> feature, for those that are called otherwise.

    Raises:
        UsageError: the folder is damaged, or a feature that is named does not exist.

    Attributes:
        features: CALVIN's name -> feature, for those that there are.
        frames: table by the frame's number, ascending.
        ranges: (E, 2) first and last frame of every episode.
        parts: which of the 15 numbers of `robot_obs` there are.
        native: that it is not in CALVIN's own format.
    """

    native = False

    def __init__(self, path: Path, keys: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._meta = read_meta(path)
        self.features = self._map(keys or {})
        episodes = self._meta.episodes
        self.frames: Mapping[int, Path] = {
            index: e.table for e in episodes for index in range(e.first, e.first + e.length)
        }
        self.ranges: NDArray[np.int64] = np.array(
            [(e.first, e.first + e.length - 1) for e in episodes], np.int64
        )
        self._starts = [e.first for e in episodes]
        self.scenes: Mapping[str, tuple[int, int]] = {}
        self.parts: Mapping[str, Sequence[int]] = {}
        if "robot_obs" in self.features:
            self.parts = {"robot_obs": _PARTS[self._shape(self.features["robot_obs"])[0]]}

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.name or str(self.path)

    @property
    def version(self) -> str:
        """Of the format."""
        return self._meta.version

    @cached_property
    def annotations(self) -> tuple[Annotation, ...] | None:
        """An annotation per episode that has a sentence; None if none has."""
        found = []
        for e in self._meta.episodes:
            if e.sentence.strip():
                task = e.sentence if e.sentence in TASK_NAMES else ""
                last = e.first + e.length - 1
                found.append(Annotation(e.first, last, e.sentence, task))
        return tuple(found) or None

    @property
    def lacking(self) -> dict[str, str]:
        """What CALVIN's own frames have and these have not, and what it is needed for."""
        needs = {
            "rel_actions": "nothing can be compared or played back",
            "robot_obs": "no policy that reads the robot's state can be asked",
            "scene_obs": "frames can be neither drawn again nor simulated from",
            **{f"rgb_{camera}": "no policy that sees it can be asked" for camera in CAMERAS},
        }
        lacking = {name: text for name, text in needs.items() if name not in self.features}
        parts = self.parts.get("robot_obs", range(15))
        if len(parts) < 15:
            missing = sorted(set(range(15)) - set(parts))
            lacking[f"robot_obs[{missing[0]}..{missing[-1]}]"] = "they are NaN for a policy"
        return lacking

    def scene(self, index: int) -> str | None:
        """Nobody says which scene a frame shows."""
        return None

    def read(self, index: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Arrays of a frame by CALVIN's names; all that there are if no names are given.

        Raises:
            BrokenFrameError: there is no such frame, it is damaged, or an array is missing.
        """
        episode = self._episode(index)
        wanted = list(self.features) if names is None else list(names)
        if missing := [name for name in wanted if name not in self.features]:
            raise BrokenFrameError(
                f"frame {index} of {self.path}: no {missing[0]}, only {', '.join(self.features)}"
            )
        try:
            return {name: self._array(episode, index, name) for name in wanted}
        except UsageError as error:
            raise BrokenFrameError(str(error)) from error

    def _array(self, episode: EpisodeMeta, index: int, name: str) -> NDArray[Any]:
        feature = self.features[name]
        if name not in STATES:
            return self._image(episode, index, feature)
        numbers = self._numbers(episode)
        row = self._row(numbers, index)
        values = np.asarray(numbers[feature][row], np.float64)
        if name != "robot_obs":
            return values
        whole = np.full(15, np.nan)
        whole[list(self.parts[name])] = values
        return whole

    def _image(self, episode: EpisodeMeta, index: int, feature: str) -> NDArray[np.uint8]:
        kind, size = self._meta.features[feature].get("dtype"), self._size(feature)
        if kind != "video":
            row = self._row(self._numbers(episode), index)
            return read_image(episode.table, feature, row)
        clip = episode.clips[feature]
        return read_video(clip.path, clip.first + index - episode.first, self._meta.fps, size)

    def _numbers(self, episode: EpisodeMeta) -> dict[str, NDArray[np.float64]]:
        features = [self.features[name] for name in STATES if name in self.features]
        path = episode.table
        try:
            changed = path.stat().st_mtime_ns
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error})") from error
        found = _table(path, changed, ("index", *features))
        for name in ("index", *features):
            width = () if name == "index" else self._shape(name)
            if name not in found or found[name].shape[1:] != width:
                shape = "none" if name not in found else found[name].shape
                raise UsageError(f"{path}: {name}: expected numbers {width}, found {shape}")
        return found

    def _row(self, numbers: Mapping[str, NDArray[np.float64]], index: int) -> int:
        rows = np.flatnonzero(numbers["index"] == index)
        if len(rows) != 1:
            raise UsageError(f"expected one row for frame {index}, found {len(rows)}")
        return int(rows[0])

    def _episode(self, index: int) -> EpisodeMeta:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        if place >= 0 and index <= self.ranges[place, 1]:
            return self._meta.episodes[place]
        raise BrokenFrameError(f"there is no frame {index} in {self.path}")

    def _shape(self, feature: str) -> tuple[int, ...]:
        shape = self._meta.features[feature].get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise UsageError(f"{self.path}: {feature}: expected a shape, found {shape!r}")
        return tuple(shape)

    def _size(self, feature: str) -> tuple[int, int]:
        """Height and width of an image, whose channels may come first."""
        shape = self._shape(feature)
        if len(shape) != 3 or 3 not in (shape[0], shape[2]):
            raise UsageError(f"{self.path}: {feature}: expected an image, found {shape}")
        return (shape[0], shape[1]) if shape[2] == 3 else (shape[1], shape[2])

    def _map(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Which feature each of CALVIN's arrays is in."""
        there = self._meta.features
        for name, feature in keys.items():
            if name not in NAMES:
                raise UnknownNameError("array of CALVIN's", name, NAMES)
            if feature not in there:
                raise UnknownNameError(f"feature for {name}", feature, there)
        mapped = dict(keys)
        for name, usual in STATES.items():
            found = next((feature for feature in usual if feature in there), None)
            if name not in mapped and found is not None:
                mapped[name] = found
        images = [n for n, f in there.items() if f.get("dtype") in ("video", "image")]
        for camera in CAMERAS:
            guessed = [n for n in images if guess_camera(n) == camera and n not in keys.values()]
            if f"rgb_{camera}" not in mapped and len(guessed) == 1:
                mapped[f"rgb_{camera}"] = guessed[0]
            elif f"rgb_{camera}" not in mapped and guessed:
                raise UsageError(
                    f"{self.path}: which of {', '.join(guessed)} is the {camera} camera's is not "
                    f"clear: say --key rgb_{camera}={guessed[0]}"
                )
        self._check_widths(mapped)
        return {name: mapped[name] for name in NAMES if name in mapped}

    def _check_widths(self, mapped: Mapping[str, str]) -> None:
        allowed = {"rel_actions": {7}, "robot_obs": set(_PARTS), "scene_obs": {24}}
        for name, feature in mapped.items():
            if name in allowed and self._shape(feature) not in {(n,) for n in allowed[name]}:
                raise UsageError(
                    f"{self.path}: {feature}: expected {' or '.join(map(str, allowed[name]))} "
                    f"numbers for {name}, found {self._shape(feature)}; name another feature by "
                    f"--key {name}=FEATURE"
                )


@lru_cache(maxsize=8)
def _table(path: Path, changed: int, columns: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    return read_numbers(path, columns)
