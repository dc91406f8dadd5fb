"""Correcting a policy: it acts, and the expert says what it would have done in every state.

This is interactive imitation, as in DAgger (Ross, Gordon and Bagnell, 2011): a policy that only
learned from the expert's own states does not know the way back from its own mistakes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.realtime import ActionQueue
from calvin_eval.rollouts.recording.tape import Tape
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.policy import (
    Action,
    BasePolicy,
    Chunk,
    Executed,
    Policy,
    Request,
    with_defaults,
)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """When the expert acts instead of the policy that is corrected.

    Attributes:
        first: share of the turns in which the expert acts, in the first episode of a split.
        last: the same in the last episode; evenly from one to the other in between.
        turn: steps after which it is drawn anew who acts.
        takeover: steps of a task after which the expert acts to its end; 0 for no policy at all.

    Raises:
        UsageError: a share beyond 0 to 1, or a number of steps that cannot be.
    """

    first: float = 0.5
    last: float = 0.5
    turn: int = 30
    takeover: int = 150

    def __post_init__(self) -> None:
        for share in (self.first, self.last):
            if not 0 <= share <= 1:
                raise UsageError(f"--beta: expected numbers from 0 to 1, found {share:g}")
        if self.turn < 1 or self.takeover < 0:
            raise UsageError(
                "expected turns of at least 1 step and a takeover after at least 0, found "
                f"{self.turn} and {self.takeover}"
            )

    @classmethod
    def parse(cls, beta: str, *, turn: int, takeover: int) -> Correction:
        """Of the text `SHARE` or `FIRST:LAST`.

        Raises:
            UsageError: no numbers.
        """
        first, _, last = beta.partition(":")
        try:
            shares = float(first), float(last or first)
        except ValueError as error:
            raise UsageError(
                f"--beta: expected a share such as 0.5, or FIRST:LAST such as 0.8:0.2, found "
                f"{beta!r}"
            ) from error
        return cls(first=shares[0], last=shares[1], turn=turn, takeover=takeover)

    def beta(self, number: int, episodes: int) -> float:
        """The expert's share of the turns in an episode."""
        return self.first + (self.last - self.first) * number / max(1, episodes - 1)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Who acts when: a function of seed, session, position and step alone.

    Attributes:
        rules: turns and the takeover.
        beta: the expert's share of the turns.
        seed: integers >= 0.
    """

    rules: Correction
    beta: float
    seed: tuple[int, ...]

    def expert_acts(self, request: Request) -> bool:
        """Whether it is the expert's turn."""
        if request.step >= self.rules.takeover:
            return True
        draws = np.random.default_rng((*self.seed, request.session, request.position))
        turns = draws.uniform(size=math.ceil(self.rules.takeover / self.rules.turn))
        return bool(turns[request.step // self.rules.turn] < self.beta)


class CorrectedPolicy(BasePolicy):
    """A policy and the expert that take turns, while the tape gets the expert's word on all states.

    It is asked at every step. The policy itself is asked as in an evaluation: when its chunk is
    used up, with the frames and executed actions that it requires. After a turn of the expert's it
    is reset, since what happened meanwhile was not its doing. The expert's plan goes on while the
    policy acts, see `ExpertPolicy.follow`.

    Args:
        policy: what is corrected.
        expert: of the scene.
        turns: who acts when.
        tape: what the expert's actions are written on.
    """

    def __init__(self, policy: Policy, expert: ExpertPolicy, turns: Turns, tape: Tape) -> None:
        self._policy, self._expert = with_defaults(policy), expert
        self._turns, self._tape = turns, tape
        self._wants = self._policy.requirements
        self.requirements = replace(self._wants, privileged=True, every_step=False, actions=0)
        self._last_by_policy = False
        self._fresh_start()

    def _fresh_start(self) -> None:
        self._queue = ActionQueue(None)
        self._frames: list[Any] = []
        self._past: deque[Executed] = deque(maxlen=self._wants.actions)
        self._away = False

    def reset(self, session: int, instruction: str) -> None:
        """Begin a subtask."""
        self._last_by_policy = False
        self._fresh_start()
        self._policy.reset(session, instruction)
        self._expert.reset(session, instruction)

    def end(self, session: int) -> None:
        """Free both sessions."""
        self._policy.end(session)
        self._expert.end(session)

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide one action for one request."""
        (request,) = requests
        if self._last_by_policy:
            self._expert.follow(request.session, self._tape.executed)
        (said,) = self._expert.act([request])
        by_expert = self._turns.expert_acts(request)
        self._tape.label(said[0], by_expert=by_expert)
        self._last_by_policy = not by_expert
        if by_expert:
            self._away = True
            return [said]
        return [[self._own_action(request)]]

    def _own_action(self, request: Request) -> Action:
        """The next action of the policy itself, which is asked for more where none is left."""
        if self._away:
            self._fresh_start()
            self._policy.reset(request.session, request.instruction)
        if self._queue.due:
            asked = replace(request, frames=tuple(self._frames), executed=tuple(self._past))
            if not self._wants.privileged:
                asked = replace(asked, info=None, task=None)
            self._frames.clear()
            (chunk,) = self._policy.act([asked])
            self._queue.answer(chunk, 0.0, (request.position, request.step))
        elif self._wants.every_step:
            self._frames.append(request.obs)
        action = self._queue.next()
        self._past.append(self._queue.executed(action))
        return action
