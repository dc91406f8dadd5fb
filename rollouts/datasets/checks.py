"""What can be wrong with a data set in CALVIN's format.

Facts of the format: CALVIN, dataset README. An error makes training or evaluation fail or learn
something else; a warning is for a person to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import BrokenFrameError, Split
from calvin_eval.sim.symbolic import TASK_NAMES

STATES: Final[Mapping[str, int]] = {
    "rel_actions": 7, "actions": 7, "robot_obs": 15, "scene_obs": 24,
}  # fmt: skip
IMAGES: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "rgb_static": ("u", (200, 200, 3)),
    "rgb_gripper": ("u", (84, 84, 3)),
    "depth_static": ("f", (200, 200)),
    "depth_gripper": ("f", (84, 84)),
}
SPARE: Final[Mapping[str, str]] = {
    "actions": "absolute actions cannot be trained on",
    "scene_obs": "frames can be neither drawn again nor simulated from",
}
"""States that a converted data set may lack, and what cannot be done without them."""
LONGEST: Final = 64  # frames of a span in CALVIN's own data

_SHOWN = 5
_ENOUGH = 500  # frames of a sample whose means say something about all
_SMALL = 0.5  # of the median file size, below which a file is looked into in any case


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong.

    Attributes:
        level: `error` or `warning`.
        check: which check found it.
        split: the folder.
        message: what was expected and found.
        frames: that show it, the first few of `count`.
        count: how many there are.
    """

    level: Literal["error", "warning"]
    check: str
    split: str
    message: str
    frames: tuple[int, ...] = ()
    count: int = 1


@dataclass(kw_only=True)
class SplitFacts:
    """What a split holds.

    Attributes:
        read: how many frames were looked into.
        arrays: names of the arrays in a frame.
        statistics: by array, per number its minimum, mean, maximum and deviation.
    """

    split: str
    frames: int = 0
    read: int = 0
    episodes: int = 0
    annotations: int = 0
    tasks: int = 0
    scenes: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    statistics: dict[str, dict[str, list[float]]] = field(default_factory=dict)


class _Faults:
    """Collects faults by what they say, with the frames that show them."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._frames: dict[tuple[Any, str, str], list[int]] = {}

    def add(self, level: str, check: str, message: str, *frames: int) -> None:
        self._frames.setdefault((level, check, message), []).extend(frames)

    def all(self) -> Iterator[Fault]:
        for (level, check, message), frames in self._frames.items():
            yield Fault(
                level=level,
                check=check,
                split=self._split,
                message=message,
                frames=tuple(sorted(set(frames))[:_SHOWN]),
                count=max(1, len(set(frames))),
            )


def check_split(
    split: Split, most: int, watch: Callable[[int, int], None] = lambda done, total: None
) -> tuple[SplitFacts, list[Fault]]:
    """Check files, ranges, annotations and numbers of a split.

    Args:
        split: the split.
        most: frames to look into, spread evenly; besides, all whose file is suspiciously small.
        watch: called with the number of frames that are done, and of all.
    """
    faults = _Faults(split.name)
    facts = SplitFacts(split=split.name, frames=len(split.frames))
    _check_ranges(split, facts, faults)
    _check_annotations(split, facts, faults)
    columns = _check_frames(split, facts, faults, _choose(split, most), watch)
    for name, parts in split.parts.items():
        if missing := sorted({*range(STATES[name])} - {*parts}):
            faults.add(
                "warning", "arrays",
                f"{name} has {len(parts)} numbers of {STATES[name]}: those from {missing[0]} to "
                f"{missing[-1]} are missing, and NaN for a policy that reads them",
            )  # fmt: skip
    if columns["rel_actions"]:
        _check_statistics(split, facts, faults, columns)
    facts.scenes = sorted(
        {*split.scenes} or {s for s in (split.scene(next(iter(split.frames))),) if s}
    )
    return facts, list(faults.all())


def _choose(split: Split, most: int) -> list[int]:
    indices = np.array(list(split.frames))
    if not split.native:  # a file has many frames
        return sorted(map(int, indices[_spread(len(indices), most)]))
    sizes = np.array([file.stat().st_size for file in split.frames.values()])
    chosen = set(indices[_spread(len(indices), most)])
    chosen |= set(indices[sizes < _SMALL * np.median(sizes)])
    return sorted(map(int, chosen))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to so many positions, spread evenly."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def _check_ranges(split: Split, facts: SplitFacts, faults: _Faults) -> None:
    try:
        ranges = split.ranges
    except UsageError as error:
        faults.add("error", "ranges", str(error))
        return
    facts.episodes = len(ranges)
    present = np.array(list(split.frames))
    named = np.zeros(0, np.int64)
    for first, last in ranges:
        if last < first:
            faults.add("error", "ranges", f"an episode from frame {first} to {last}")
            continue
        if last - first >= 2 * len(present) + _SHOWN:  # too many to be listed
            detail = f"an episode from frame {first} to {last}, and {len(present)} files in all"
            faults.add("error", "missing frames", detail)
            named = np.concatenate([named, present[(first <= present) & (present <= last)]])
            continue
        wanted = np.arange(first, last + 1)
        named = np.concatenate([named, wanted])
        if len(missing := np.setdiff1d(wanted, present)):
            faults.add("error", "missing frames", "an episode has frames without a file", *missing)
    if len(np.unique(named)) < len(named):
        faults.add("error", "ranges", "episodes share frames")
    if len(beside := np.setdiff1d(present, named)):
        faults.add("warning", "ranges", "frames that belong to no episode", *beside)


def _check_annotations(split: Split, facts: SplitFacts, faults: _Faults) -> None:
    try:
        annotations = split.annotations
    except UsageError as error:
        faults.add("error", "annotations", str(error))
        return
    if annotations is None:
        faults.add(
            "warning", "annotations", "there are none: nothing to train a language policy on"
        )
        return
    facts.annotations = len(annotations)
    facts.tasks = len({a.task for a in annotations if a.task})
    if unnamed := sum(not a.task for a in annotations):
        faults.add(
            "warning", "annotations", f"{unnamed} have a sentence and no task: nobody can say "
            "whether it was done",
        )  # fmt: skip
    ranges = split.ranges if facts.episodes else np.array([[0, np.inf]])
    long = 0
    for a in annotations:
        if not ((ranges[:, 0] <= a.first) & (a.first <= a.last) & (a.last <= ranges[:, 1])).any():
            faults.add(
                "error", "annotations", "an annotation whose frames are in no episode", a.first
            )
        if a.task and a.task not in TASK_NAMES:
            faults.add("warning", "annotations", f"the task {a.task!r} is none of CALVIN's 34")
        if not a.text.strip():
            faults.add("error", "annotations", "an annotation without a sentence", a.first)
        long += a.last - a.first + 1 > LONGEST + 1
    if long:
        faults.add("warning", "annotations", f"{long} are longer than {LONGEST} frames")


def _check_frames(
    split: Split,
    facts: SplitFacts,
    faults: _Faults,
    chosen: list[int],
    watch: Callable[[int, int], None],
) -> dict[str, list[NDArray[Any]]]:
    """Look into frames; returns the states of those that are sound."""
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in STATES}
    arrays: set[str] = set()
    for done, index in enumerate(chosen):
        watch(done, len(chosen))
        try:
            frame = split.read(index)
        except BrokenFrameError as error:
            reason = str(error).partition("(")[2].rstrip(")") or str(error)
            faults.add("error", "broken frames", f"a file cannot be read: {reason}", index)
            continue
        arrays |= set(frame)
        if _check_frame(split, index, frame, faults):
            for name, column in columns.items():
                if name in frame:
                    column.append(np.asarray(frame[name], np.float64))
    watch(len(chosen), len(chosen))
    facts.read, facts.arrays = len(chosen), sorted(arrays)
    return columns


def _check_frame(split: Split, index: int, frame: Mapping[str, Any], faults: _Faults) -> bool:
    """Check one frame; says whether its states can be used."""
    sound = True
    for name, size in STATES.items():
        value = frame.get(name)
        if value is None and name in SPARE:
            faults.add("warning", "arrays", f"no {name}: {SPARE[name]}", index)
        elif value is None or value.shape != (size,) or value.dtype.kind != "f":
            found = "none" if value is None else f"{value.dtype} {value.shape}"
            faults.add("error", "arrays", f"{name}: expected {size} numbers, found {found}", index)
            sound = False
        elif not np.isfinite(value[list(split.parts.get(name, range(size)))]).all():
            faults.add("error", "numbers", f"{name}: NaN or infinity", index)
            sound = False
    for name, (kind, shape) in IMAGES.items():
        value = frame.get(name)
        if value is not None and (value.dtype.kind != kind or value.shape != shape):
            faults.add(
                "error" if split.native else "warning", "arrays",
                f"{name}: expected {shape}, found {value.dtype} {value.shape}", index,
            )  # fmt: skip
    if "rgb_static" not in frame or "rgb_gripper" not in frame:
        faults.add("warning", "arrays", "no colour images of both cameras", index)
    if sound:
        _check_values(index, frame, faults)
    return sound


def _check_values(index: int, frame: Mapping[str, Any], faults: _Faults) -> None:
    relative, robot = frame["rel_actions"], frame["robot_obs"]
    absolute, scene = frame.get("actions", relative), frame.get("scene_obs")
    if np.abs(relative[:6]).max() > 1 + 1e-6:
        faults.add("error", "ranges of numbers", "rel_actions beyond -1 to 1", index)
    for name, value in (("rel_actions", relative[6]), ("actions", absolute[6])):
        if value not in (-1, 1):
            faults.add("error", "gripper", f"{name}: a gripper command that is not -1 or 1", index)
    if relative[6] != absolute[6]:
        faults.add("error", "gripper", "rel_actions and actions disagree on the gripper", index)
    if not -0.01 <= robot[6] <= 0.1:
        faults.add("warning", "ranges of numbers", "robot_obs: a gripper wider than 8 cm", index)
    if np.abs(robot[:3]).max() > 1.5 or np.abs(robot[3:6]).max() > np.pi + 1e-3:
        faults.add("warning", "ranges of numbers", "robot_obs: a tcp that is out of reach", index)
    if scene is not None and not np.isin(scene[4:6], (0, 1)).all():
        faults.add("error", "ranges of numbers", "scene_obs: a light that is not 0 or 1", index)


def _check_statistics(
    split: Split,
    facts: SplitFacts,
    faults: _Faults,
    columns: Mapping[str, list[NDArray[Any]]],
) -> None:
    """Sum the numbers up, and compare `statistics.yaml` with them."""
    for name, column in columns.items():
        if not column:
            continue
        values = np.array(column)[:, list(split.parts.get(name, range(STATES[name])))]
        facts.statistics[name] = {
            "min": values.min(0).tolist(), "mean": values.mean(0).tolist(),
            "max": values.max(0).tolist(), "std": values.std(0).tolist(),
        }  # fmt: skip
    if facts.read < min(facts.frames, _ENOUGH):
        return
    if 0 < np.abs(np.array(columns["rel_actions"])[:, :6]).max() < 0.1:
        faults.add(
            "warning", "action statistics",
            "rel_actions are all below 0.1: expected them scaled by 50 (metres) and 20 (radians)",
        )  # fmt: skip
    if not split.native:
        return
    path = split.path / "statistics.yaml"
    if not path.is_file():
        faults.add("warning", "action statistics", "there is no statistics.yaml")
        return
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        wanted = np.array(content["robot_obs"][0]["mean"], float)
        spread = np.array(facts.statistics["robot_obs"]["std"]) + 1e-3
        far = np.abs(wanted - facts.statistics["robot_obs"]["mean"]) > spread
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        faults.add("error", "action statistics", f"{path.name} cannot be used ({error!r})")
        return
    if far.any():
        faults.add(
            "warning", "action statistics",
            f"{path.name}: the mean of robot_obs {np.flatnonzero(far).tolist()} is more than a "
            "deviation away from that of the frames",
        )  # fmt: skip
