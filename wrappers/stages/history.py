"""Windows of past observations and of executed actions."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Executed, Requirements
from calvin_eval.wrappers.stages.base import Context, Observation, ObservationStage
from calvin_eval.wrappers.stages.options import choice, flag, whole
from calvin_eval.wrappers.stages.past_actions import KEYS, executed_before, executed_row, stacked

MASK = "history_mask"
PADDINGS = ("none", "repeat", "zeros")
GROUPS = ("rgb_obs", "depth_obs")


@dataclass(frozen=True, kw_only=True)
class History(ObservationStage):
    """Stack the last frames of this session, oldest first, into one observation.

    At time t the window holds the frames t - (length - 1) stride, ..., t - stride, t. Every
    stacked entry gets a leading axis of time, and `history_mask` (T,) bool says which frames were
    really seen since the reset.

    The row of `actions` that belongs to a frame is the action whose execution led to it, as the
    world got it; `raw_actions` is what the network returned for it. They are new entries (T, d)
    float64 of the observation. Nothing led to the first frame after a reset: its row is zeros, as
    are those before it under every padding, and `actions_mask` (T,) bool is false there;
    `raw_actions_mask` is false also where an action was held. A window of actions alone needs no
    frames, so that none are drawn for it, and leaves them as they are.

    Attributes:
        length: frames in a full window.
        stride: from one frame of the window to the next, in frames.
        pad: what stands for frames before the reset: "none" lets the window grow to its length
            (RoboVLMs' queue of images), "repeat" the first frame, "zeros" zeros.
        keys: what is stacked: names of images such as `rgb_static`, `state`, `robot_obs`, and
            `actions` and `raw_actions`. All images, and `state` where an earlier stage made it,
            if None.
        every_frame: whether frames between two decisions count; without, a window holds the
            observations of the last decisions, and the actions executed right before them.
        columns: d, numbers of an action, as long as nothing was executed.
    """

    length: int
    stride: int = 1
    pad: str = "none"
    keys: Sequence[str] | None = None
    every_frame: bool = True
    columns: int = 7

    def __post_init__(self) -> None:
        whole("length of history", self.length, least=1)
        whole("stride of history", self.stride, least=1)
        whole("columns of history", self.columns, least=1)
        choice("pad of history", self.pad, PADDINGS)
        flag("every_frame of history", self.every_frame)

    def requires(self, needs: Requirements) -> Requirements:
        """Frames between decisions, unless actions alone are stacked; and as many actions."""
        reads = (self._reach if self.every_frame else 1) if self._actions else 0
        frames = self.every_frame and not self._alone
        return replace(
            needs, every_step=needs.every_step or frames, actions=max(needs.actions, reads)
        )

    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """One frame: the present, with windows in place of the chosen entries."""
        present = dict(frames[-1])
        if self._alone:
            return [*frames[:-1], {**present, **self._acted(context, None)}]
        past = context.memory.setdefault("frames", deque(maxlen=self._reach))
        for frame in frames if self.every_frame else frames[-1:]:
            past.append({key: _entry(frame, key) for key in self._names(frame)})
        window, mask = self._window(past)
        present[MASK] = np.array(mask)
        for key in past[-1]:
            present = _with_entry(present, key, np.stack([frame[key] for frame in window]))
        return [{**present, **self._acted(context, len(past))}]

    @property
    def _reach(self) -> int:
        return (self.length - 1) * self.stride + 1

    @property
    def _actions(self) -> list[str]:
        """The chosen entries that are executed actions."""
        return [key for key in self.keys or () if key in KEYS]

    @property
    def _alone(self) -> bool:
        return bool(self._actions) and len(self._actions) == len(self.keys or ())

    def _backs(self, frames: int) -> list[int]:
        """How many frames ago each frame of the window was, oldest first, of so many in all."""
        backs = [back * self.stride for back in reversed(range(self.length))]
        return [back for back in backs if back < frames] if self.pad == "none" else backs

    def _window(
        self, past: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], list[bool]]:
        """Frames and whether they were seen, oldest first."""
        last = len(past) - 1
        indices = [last - back for back in self._backs(len(past))]
        blank = past[0]
        if self.pad == "zeros":
            blank = {key: np.zeros_like(value) for key, value in past[0].items()}
        window = [past[index] if index >= 0 else blank for index in indices]
        return window, [index >= 0 for index in indices]

    def _acted(self, context: Context, frames: int | None) -> dict[str, Any]:
        """The windows of actions, and which rows are real.

        Args:
            context: with the executed actions.
            frames: that were seen since the reset; one more than actions were executed if None.
        """
        executed: Sequence[Executed | None] = context.request.executed
        found: dict[str, Any] = {}
        if not self.every_frame:
            done = context.memory.setdefault("actions", deque(maxlen=self._reach))
            done.append(executed_before(executed, 0))
            executed = tuple(done)
        seen = len(executed) + self.every_frame if frames is None else frames
        before = [executed_before(executed, back) for back in self._backs(seen)]
        for key in self._actions:
            rows = [None if done is None else executed_row(done, key) for done in before]
            found[key], found[f"{key}_mask"] = stacked(rows, self.columns, key)
        return found

    def _names(self, frame: Observation) -> list[str]:
        if self.keys is not None:
            return [key for key in self.keys if key not in KEYS]
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
