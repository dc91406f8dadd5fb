"""Windows of past observations."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.stages.base import Context, Observation, ObservationStage
from calvin_eval.wrappers.stages.options import choice, flag, whole

MASK = "history_mask"
PADDINGS = ("none", "repeat", "zeros")
GROUPS = ("rgb_obs", "depth_obs")


@dataclass(frozen=True, kw_only=True)
class History(ObservationStage):
    """Stack the last frames of this session, oldest first, into one observation.

    At time t the window holds the frames t - (length - 1) stride, ..., t - stride, t. Every
    stacked entry gets a leading axis of time, and `history_mask` (T,) bool says which frames were
    really seen since the reset.

    Attributes:
        length: frames in a full window.
        stride: from one frame of the window to the next, in frames.
        pad: what stands for frames before the reset: "none" lets the window grow to its length
            (RoboVLMs' queue of images), "repeat" the first frame, "zeros" zeros.
        keys: what is stacked: names of images such as `rgb_static`, `state`, `robot_obs`. All
            images, and `state` where an earlier stage made it, if None.
        every_frame: whether frames between two decisions count; without, a window holds the
            observations of the last decisions.
    """

    length: int
    stride: int = 1
    pad: str = "none"
    keys: Sequence[str] | None = None
    every_frame: bool = True

    def __post_init__(self) -> None:
        whole("length of history", self.length, least=1)
        whole("stride of history", self.stride, least=1)
        choice("pad of history", self.pad, PADDINGS)
        flag("every_frame of history", self.every_frame)

    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """One frame: the present, with windows in place of the chosen entries."""
        past = context.memory.setdefault("frames", deque(maxlen=self._reach))
        for frame in frames if self.every_frame else frames[-1:]:
            past.append({key: _entry(frame, key) for key in self._names(frame)})
        window, mask = self._window(past)
        present = {**frames[-1], MASK: np.array(mask)}
        for key in past[-1]:
            present = _with_entry(present, key, np.stack([frame[key] for frame in window]))
        return [present]

    @property
    def _reach(self) -> int:
        return (self.length - 1) * self.stride + 1

    def _window(
        self, past: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], list[bool]]:
        """Frames and whether they were seen, oldest first."""
        last = len(past) - 1
        indices = [last - back * self.stride for back in reversed(range(self.length))]
        if self.pad == "none":
            indices = [index for index in indices if index >= 0]
        blank = past[0]
        if self.pad == "zeros":
            blank = {key: np.zeros_like(value) for key, value in past[0].items()}
        window = [past[index] if index >= 0 else blank for index in indices]
        return window, [index >= 0 for index in indices]

    def _names(self, frame: Observation) -> list[str]:
        if self.keys is not None:
            return list(self.keys)
        images = [key for group in GROUPS for key in frame.get(group, {})]
        return [*images, *(["state"] if "state" in frame else [])]


def _entry(frame: Observation, key: str) -> Any:
    """A copy of an entry: whoever made the frame may use its memory again.

    Raises:
        PolicyError: there is none of that name.
    """
    for group in (frame, *(frame.get(name, {}) for name in GROUPS)):
        if key in group:
            return np.array(group[key])
    found = [*frame, *(key for name in GROUPS for key in frame.get(name, {}))]
    raise PolicyError(
        f"history: expected {key!r} in the observation, found {', '.join(found)}: correct "
        "policy.observe.history.keys, or let the policy require that camera."
    )


def _with_entry(frame: Observation, key: str, value: Any) -> dict[str, Any]:
    """The frame with one entry replaced, wherever it lies."""
    for name in GROUPS:
        if key in frame.get(name, {}):
            return {**frame, name: {**frame[name], key: value}}
    return {**frame, key: value}
