"""Demonstrations from a data set in LeRobot's format: its episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.check.demonstrations import Demonstration
from calvin_eval.wrappers.check.lerobot_split import LeRobotSplit


def read_lerobot(
    path: Path, count: int, keys: Mapping[str, str] | None = None
) -> Iterator[Demonstration]:
    """Demonstrations of a data set, spread evenly over its episodes.

    Args:
        path: the folder that holds `meta`.
        count: how many at most.
        keys: CALVIN's name of an array -> feature.

    Raises:
        UsageError: episodes have no sentences, or lack what the policy or the check needs.
    """
    split = LeRobotSplit(path, keys)
    annotations = split.annotations
    if not annotations:
        raise UsageError(f"expected episodes with a task's sentence in {path}, found none")
    for number in map(int, np.unique(np.linspace(0, len(annotations) - 1, count).round())):
        shown = annotations[number]
        frames = range(shown.first, shown.last + 1)
        actions = [split.read(i, ("rel_actions",))["rel_actions"] for i in frames]
        yield Demonstration(
            session=number,
            position=0,
            instruction=shown.text,
            actions=np.array(actions, np.float64),
            observe=partial(_observe, split, shown.first),
        )


def _observe(
    split: LeRobotSplit,
    first: int,
    step: int,
    *,
    rgb: Sequence[str] = (),
    depth: Sequence[str] = (),
) -> Mapping[str, Any]:
    if depth:
        raise UsageError(
            f"expected a policy without depth images: those of {', '.join(depth)} are not in a "
            "data set in LeRobot's format"
        )
    states = [name for name in ("robot_obs", "scene_obs") if name in split.features]
    colours = [f"rgb_{name}" for name in rgb]
    frame = split.read(first + step, ("robot_obs", *colours, *states[1:]))
    return {
        "rgb_obs": {name: frame[name] for name in colours},
        "depth_obs": {},
        **{name: frame[name] for name in states},
    }
