"""A policy on the rails of a demonstration: it is asked at every decision, but never obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from calvin_eval.errors import PolicyError, UsageError
from calvin_eval.wrappers.check.commands import (
    Commands,
    Indices,
    Numbers,
    as_relative,
    read_commands,
)
from calvin_eval.wrappers.policy import (
    Action,
    BasePolicy,
    Executed,
    Policy,
    Request,
    with_defaults,
)


class Observe(Protocol):
    """Looks at a demonstration."""

    def __call__(
        self, step: int, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """CALVIN's observation before the action of that step; steps never decrease."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Demonstration:
    """One subtask as somebody else carried it out.

    Attributes:
        session: an id of its own, the chain's where there is one.
        position: index of the subtask in its chain.
        instruction: what it shows.
        actions: (T, 7) float64, relative in the environment's units.
        observe: what was seen, by step 0..T-1.
    """

    session: int
    position: int
    instruction: str
    actions: Numbers
    observe: Observe


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """What a policy answered beside what was demonstrated, n actions of several demonstrations.

    Attributes:
        predicted: (n, 7) relative; of absolute poses, what they ask of the measured pose.
        demonstrated: (n, 7) relative.
        robot_obs: (n, 15) measured when the action was due.
        decided: (n, 15) measured when it was decided.
        episode: (n,) which demonstration, in blocks.
        commands: the answers as they were given.
    """

    predicted: Numbers
    demonstrated: Numbers
    robot_obs: Numbers
    decided: Numbers
    episode: Indices
    commands: Commands

    def __len__(self) -> int:
        return len(self.predicted)


def ask(
    policy: Policy, demonstrations: Iterable[Demonstration], *, execute: int | None = None
) -> Pairs:
    """Ask a policy for its actions along demonstrations.

    At every decision it sees what the demonstrator saw; its chunk is compared with the actions
    that followed, and the next decision is due where the chunk ends, as in a run.

    Args:
        policy: the policy with all its stages.
        demonstrations: read one after another, each to its end.
        execute: actions that count of every chunk; all if None.

    Raises:
        PolicyError: an answer that is no chunk of actions.
        UsageError: no demonstration, or a policy that needs more than observations.
    """
    if policy.requirements.privileged:
        raise UsageError(
            "this policy reads the simulator's own state, which demonstrations do not hold: check "
            "it without --demos"
        )
    answers: list[Action] = []
    shown, measured, decided, lengths = [], [], [], []
    for demonstration in demonstrations:
        for chunk, states in _forced(policy, demonstration, execute):
            answers += chunk
            measured += states
            decided += [states[0]] * len(states)
        shown.append(demonstration.actions)
        lengths.append(len(demonstration.actions))
    if not lengths:
        raise UsageError("expected one demonstration or more, found none")
    commands, robot_obs = read_commands(answers), np.array(measured, np.float64)
    if len(commands) != len(answers):
        raise PolicyError("expected actions of one form; found several forms in one policy")
    return Pairs(
        predicted=as_relative(commands, robot_obs),
        demonstrated=np.concatenate(shown).astype(np.float64),
        robot_obs=robot_obs,
        decided=np.array(decided, np.float64),
        episode=np.repeat(np.arange(len(lengths)), lengths),
        commands=commands,
    )


def _forced(
    policy: Policy, demonstration: Demonstration, execute: int | None
) -> Iterator[tuple[list[Action], list[Any]]]:
    """Per decision: the actions that count, and the states (15,) in which they were due."""
    checked = with_defaults(policy)
    try:
        yield from _decisions(checked, demonstration, execute)
    finally:
        checked.end(demonstration.session)


def _recorded(demonstration: Demonstration, step: int, most: int) -> tuple[Executed, ...]:
    """What was demonstrated before a step: the policy's own answers were never executed."""
    done = demonstration.actions[max(step - most, 0) : step] if most else ()
    return tuple(Executed(sent=action.copy()) for action in done)


def _decisions(
    policy: BasePolicy, demonstration: Demonstration, execute: int | None
) -> Iterator[tuple[list[Action], list[Any]]]:
    needs, total = policy.requirements, len(demonstration.actions)
    images = {"rgb": needs.rgb, "depth": needs.depth}
    between = images if needs.every_step else {}
    policy.reset(demonstration.session, demonstration.instruction)
    frames: list[Mapping[str, Any]] = []
    step = 0
    while step < total:
        obs = demonstration.observe(step, **images)
        request = Request(
            session=demonstration.session,
            instruction=demonstration.instruction,
            position=demonstration.position,
            step=step,
            obs=obs,
            frames=tuple(frames),
            executed=_recorded(demonstration, step, needs.actions),
        )
        (chunk,) = policy.act([request])
        taken = list(chunk[:execute])[: total - step]
        if not taken:
            raise PolicyError("expected a chunk of at least one action, found none")
        later = range(step + 1, step + len(taken))
        seen = [demonstration.observe(at, **between) for at in later]
        frames = seen if needs.every_step else []
        yield taken, [frame["robot_obs"] for frame in (obs, *seen)]
        step += len(taken)
