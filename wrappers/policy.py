"""The policy protocol: batch first, sessions keep state.

A policy serves many chains at once. Every request carries its session, which is the id of the
chain; what a policy remembers belongs to one session and is forgotten at `reset`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Action: TypeAlias = "NDArray[np.floating[Any]] | tuple[Any, Any, Any] | Mapping[str, Any]"
"""One environment action in any form that `calvin_eval.sim` accepts: a relative 7-vector
(x50 position, x20 euler, gripper -1/1), an absolute `(position, orientation, gripper)` tuple,
or a dict of type and action."""

Chunk: TypeAlias = "NDArray[np.floating[Any]] | Sequence[Action]"
"""One decision: k >= 1 environment actions in order, usually an array of shape (k, 7)."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a policy needs to see; the engine renders nothing else.

    Attributes:
        rgb: cameras whose colour images the policy reads, for example `("static", "gripper")`.
        depth: cameras whose depth images the policy reads.
        sizes: width and height in pixels of cameras that are to be drawn at another size than
            the benchmark's; a run of such a policy says so.
        every_step: whether the policy wants frames between its decisions (history policies).
        privileged: whether requests carry the simulator's `info` and the task's name (scripted
            experts only; a run of such a policy says so).
    """

    rgb: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    every_step: bool = False
    privileged: bool = False

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that must be rendered, without repetition, in order of first mention."""
        return tuple(dict.fromkeys((*self.rgb, *self.depth)))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One session that needs a decision.

    Attributes:
        session: the chain's id; requests of one batch have different sessions.
        instruction: the current subtask's instruction.
        position: index of the subtask in its chain, 0..4.
        step: environment steps taken in this subtask so far.
        obs: CALVIN's observation with `robot_obs` (15,) float64, `scene_obs` (24,) float64 and,
            as far as required, `rgb_obs` (H, W, 3) uint8 and `depth_obs` (H, W) float32 metres.
        info: the simulator's info, only for policies that require privileged state.
        task: the subtask's name, for example `open_drawer`, only for the same policies.
        frames: observations between the last decision and this one, oldest first, only for
            policies that require every step; empty when a chunk has one action.
    """

    session: int
    instruction: str
    position: int
    step: int
    obs: Mapping[str, Any]
    info: Mapping[str, Any] | None = None
    task: str | None = None
    frames: Sequence[Mapping[str, Any]] = ()


@runtime_checkable
class Policy(Protocol):
    """What the rollout engine talks to.

    A policy that can serve only so many chains at once has an attribute `max_sessions`; the
    engine then makes further instances of it, or gives it fewer workers. One that has something
    to say at the end of a run has a method `report` that returns a mapping which JSON can hold.
    """

    requirements: Requirements

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session; called at the start of every subtask."""

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide for every request, in order: one chunk of environment actions each."""
