"""Which action is executed when: while the policy thinks, the world waits, or goes on.

In the benchmark the world waits, so a slow policy scores as a fast one does. On a robot it goes on:
a decision about what was seen at step t arrives d steps later. Here the policy is asked at step t
all the same, and its answer is held back for d steps, so that no wall time is spent on waiting.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.protocol import Protocol, RealTime
from calvin_eval.sim.actions import parse_action
from calvin_eval.wrappers.policy import Action, Chunk, Executed

_ROUNDING = 1e-9
_RELATIVE = ("cartesian_rel", "joint_rel")


Decision: TypeAlias = "tuple[int, int] | None"
"""Position of the subtask and step in it, at which a policy was asked; None if nobody says."""


@dataclass(kw_only=True)
class Waits:
    """What became of one subtask's time.

    Attributes:
        latencies: of every decision, in steps, the one included that came too late to be used.
        waited: steps for which the policy had left no action.
    """

    latencies: list[int] = field(default_factory=list)
    waited: int = 0


class ActionQueue:
    """The actions of one chain, in a world that waits while the policy thinks.

    Args:
        execute: actions executed of every chunk; all if None.

    Attributes:
        waits: per subtask, if the world goes on; else empty.
        origin: of the action that `next` gave last: the decision and the row of its chunk; the
            decision is None for an action that was held.
    """

    def __init__(self, execute: int | None) -> None:
        self._execute = execute
        self._actions: deque[Action] = deque()
        self._first: tuple[Decision, int] = None, 0
        self._put_in = 0
        self.origin: tuple[Decision, int] = None, 0
        self.waits: list[Waits] = []

    @property
    def due(self) -> bool:
        """Whether the policy is to be asked before the next step."""
        return not self._actions

    def begin_subtask(self, *, keep: bool, fresh_world: bool) -> None:
        """The next subtask starts.

        Args:
            keep: whether it executes what the last one left of its chunk.
            fresh_world: whether the start state was restored for it.
        """
        if not keep:
            self._actions.clear()

    def answer(self, chunk: Chunk, seconds: float, decision: Decision = None) -> None:
        """Take the chunk that the policy has just returned.

        Args:
            chunk: its actions.
            seconds: wall time that the policy took.
            decision: when it was asked, for `origin`.
        """
        self._put(chunk, 0, decision)

    def next(self) -> Action:
        """The action of the next step."""
        decision, first = self._first
        self.origin = decision, first + self._put_in - len(self._actions)
        return self._actions.popleft()

    def executed(self, action: Action) -> Executed:
        """What a request says of the action that `next` gave last."""
        decision, row = self.origin
        sent = copy.deepcopy(action)  # the record keeps the original
        return Executed(
            sent=sent, raw=None if decision is None else sent, decision=decision, row=row
        )

    def _put(self, chunk: Chunk, first: int, decision: Decision) -> None:
        last = None if self._execute is None else first + self._execute
        # A copy: a policy may write its next chunk into the same memory.
        self._actions = deque(copy.deepcopy(chunk[first:last]))
        self._first, self._put_in = (decision, first), len(self._actions)


@dataclass
class _Decision:
    """An answer on its way: how long it takes, and the steps until it is there."""

    chunk: Chunk
    latency: int
    left: int
    asked: Decision


class RealTimeQueue(ActionQueue):
    """The actions of one chain, in a world that goes on while the policy thinks.

    A new chunk replaces what is left of the old one; one decision is under way at a time.

    Args:
        execute: actions executed of every chunk; all if None.
        rules: how the world goes on; with a latency.
    """

    def __init__(self, execute: int | None, rules: RealTime) -> None:
        super().__init__(execute)
        self._rules = rules
        self._decision: _Decision | None = None
        self._last: Action | None = None
        self._latency = rules.latency if isinstance(rules.latency, int) else None
        # With a measured latency nothing is known before the first answer.
        self._expected = self._latency or 0

    @property
    def due(self) -> bool:
        """Whether the policy is to be asked before the next step."""
        lead = self._expected if self._rules.ask == "ahead" else 0
        return self._decision is None and len(self._actions) <= lead

    def begin_subtask(self, *, keep: bool, fresh_world: bool) -> None:
        """The next subtask starts; a decision that is under way was about another one."""
        super().begin_subtask(keep=keep, fresh_world=fresh_world)
        self._decision = None
        if fresh_world:
            self._last = None
        self.waits.append(Waits())

    def answer(self, chunk: Chunk, seconds: float, decision: Decision = None) -> None:
        """Take the chunk that the policy has just returned, see `ActionQueue.answer`."""
        steps = self._latency
        if steps is None:
            steps = math.ceil(seconds * self._rules.hz - _ROUNDING)
        self.waits[-1].latencies.append(steps)
        self._expected = steps
        self._decision = _Decision(copy.deepcopy(chunk), steps, steps, decision)
        self._arrive()

    def next(self) -> Action:
        """The action of the next step, after which the answer may be there."""
        if self._actions:
            action = super().next()
        else:
            action = self._wait()
            self.origin = None, 0
            self.waits[-1].waited += 1
        self._last = action
        if self._decision is not None:
            self._decision.left -= 1
            self._arrive()
        return action

    def _arrive(self) -> None:
        decision = self._decision
        if decision is None or decision.left > 0:
            return
        drop = self._rules.stale == "drop"
        first = min(decision.latency, len(decision.chunk) - 1) if drop else 0
        self._put(decision.chunk, first, decision.asked)
        self._decision = None

    def _wait(self) -> Action:
        if self._last is None:
            assert self._decision is not None  # or else `due` was ignored
            return first_hold(self._decision.chunk[0])
        return self._last if self._rules.while_waiting == "repeat" else hold(self._last)


def action_queue(rules: Protocol) -> ActionQueue:
    """What decides when a chain's policy is asked, and what is executed when."""
    if rules.realtime.latency is None:
        return ActionQueue(rules.execute)
    return RealTimeQueue(rules.execute, rules.realtime)


def hold(last: Action) -> Action:
    """The action that moves nothing after this one and keeps its gripper command.

    After a relative action it is one with zeros, in the same floating-point type; after an
    absolute one the same pose again, since a relative action would start from elsewhere.

    Raises:
        InvalidActionError: it is none that the simulator accepts.
    """
    if parse_action(last).kind not in _RELATIVE:
        return last
    if isinstance(last, Mapping):
        return {**last, "action": _still(last["action"])}
    return _still(last)


def first_hold(coming: Action) -> NDArray[np.floating[Any]]:
    """The relative action (7,) that moves nothing, gripper open, before the first of a chain.

    Args:
        coming: the policy's first action. A subtask's actions are stored in one floating-point
            type, and in another than the policy's own they would not move the arm by the same
            bits.

    Raises:
        InvalidActionError: it is none that the simulator accepts.
    """
    parsed = parse_action(coming)
    numbers = parsed.joints if parsed.position is None else parsed.position
    assert numbers is not None
    still = np.zeros(7, numbers.dtype)
    still[-1] = 1
    return still


def _still(vector: Any) -> NDArray[Any]:
    still = np.array(vector)
    still[:-1] = 0
    return still
