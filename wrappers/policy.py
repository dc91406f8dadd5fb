"""The policy contract: batch first, sessions keep state, and sessions end.

A policy serves many chains at once. Every request carries its session, which is the id of the
chain; what a policy remembers belongs to one session, is forgotten at `reset` and freed at `end`.

A user's policy is an object with `requirements`, `reset` and `act` (`Policy`). The other parts of
the contract are optional; `BasePolicy` has a default for each, and `with_defaults` gives them to
an object that lacks some. The engine, the pipeline and the servers talk to a `BasePolicy` only.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError

Action: TypeAlias = "NDArray[np.floating[Any]] | tuple[Any, Any, Any] | Mapping[str, Any]"
"""One environment action in any form that `calvin_eval.sim` accepts: a relative 7-vector
(x50 position, x20 euler, gripper -1/1), an absolute `(position, orientation, gripper)` tuple,
or a dict of type and action."""

Chunk: TypeAlias = "NDArray[np.floating[Any]] | Sequence[Action]"
"""One decision: k >= 1 environment actions in order, usually an array of shape (k, 7)."""


LARGEST_SIDE = 4096
"""Pixels of a side of an image that a policy may require; one of both sides has 50 MB."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a policy needs of the engine, which renders nothing else.

    Attributes:
        rgb: cameras whose colour images the policy reads, for example `("static", "gripper")`.
        depth: cameras whose depth images the policy reads.
        sizes: width and height in pixels of cameras that are to be drawn at another size than
            the benchmark's; a run of such a policy says so.
        every_step: whether the policy wants frames between its decisions (history policies).
        privileged: whether requests carry the simulator's `info` and the task's name (scripted
            experts only; a run of such a policy says so).
        max_sessions: sessions that one instance can keep apart; any number if None. With a limit
            every worker gets an instance of its own, which is asked for one session at a time.
        actions: how many of the actions that were executed since the reset a request carries at
            most, see `Request.executed`; 0 for a policy that reads none.
        matrices: whether observations carry the matrices of the cameras that are rendered, as
            `cameras`, see `wrappers.points.point_cloud`.
    """

    rgb: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    every_step: bool = False
    privileged: bool = False
    max_sessions: int | None = None
    actions: int = 0
    matrices: bool = False

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that must be rendered, without repetition, in order of first mention."""
        return tuple(dict.fromkeys((*self.rgb, *self.depth)))

    def __post_init__(self) -> None:
        """Raise a CheckpointError for images that no camera draws, or no number of actions."""
        if type(self.actions) is not int or self.actions < 0:
            raise CheckpointError(
                f"expected requirements.actions to be a whole number from 0 up, found "
                f"{self.actions!r}"
            )
        sides = [side for size in self.sizes.values() for side in size]
        if any(not 1 <= side <= LARGEST_SIDE for side in sides):
            raise CheckpointError(
                f"expected the sides of images to have 1 to {LARGEST_SIDE} pixels, found "
                f"{dict(self.sizes)}: let the policy resize what it is given"
            )

    def observed(self) -> dict[str, Any]:
        """What decides the content of a request, by field: all but `max_sessions`.

        `actions` and `matrices` are among them only where they are asked for, so that what older
        releases wrote and read stays as it is.
        """
        values = asdict(self)
        del values["max_sessions"]
        for name in ("actions", "matrices"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class Executed:
    """One action that the world has executed.

    Attributes:
        sent: as the world got it, behind all stages.
        raw: what the policy itself returned for it, in front of its action stages: the row of its
            answer that has the place of this action in the chunk. None where it returned none:
            the action was held while a decision was late, or decided before the last reset.
        decision: `position` and `step` of the request whose answer it comes from, or None for an
            action that was held.
        row: of that answer, from 0.
    """

    sent: Action
    raw: Any = None
    decision: tuple[int, int] | None = None
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One session that needs a decision.

    Fields may be added, always with a default: make requests with keyword arguments, change them
    with `dataclasses.replace`, and leave alone what you do not know.

    Attributes:
        session: the chain's id; requests of one batch have different sessions.
        instruction: the current subtask's instruction.
        position: index of the subtask in its chain, 0..4.
        step: environment steps taken in this subtask so far.
        obs: CALVIN's observation with `robot_obs` (15,) float64, `scene_obs` (24,) float64 and,
            as far as required, `rgb_obs` (H, W, 3) uint8, `depth_obs` (H, W) float32 metres and
            `cameras`, by name `intrinsic` (3, 3) and `extrinsic` (4, 4) float64.
        info: the simulator's info, only for policies that require privileged state.
        task: the subtask's name, for example `open_drawer`, only for the same policies.
        frames: observations between the last decision and this one, oldest first, only for
            policies that require every step; empty when a chunk has one action.
        executed: the actions that were executed since the policy was last reset, oldest first:
            the newest `Requirements.actions` of them. Only for policies that require some.
        attempt: 0 for a new decision. When `act` raises for a batch, its requests are asked
            again one by one, and those that are asked for the n-th time again have n: what was
            remembered for such a request must not be remembered twice.
    """

    session: int
    instruction: str
    position: int
    step: int
    obs: Mapping[str, Any]
    info: Mapping[str, Any] | None = None
    task: str | None = None
    frames: Sequence[Mapping[str, Any]] = ()
    attempt: int = 0
    executed: Sequence[Executed] = ()


@runtime_checkable
class Policy(Protocol):
    """What a user's policy must have; see `BasePolicy` for what it may have beside it."""

    requirements: Requirements

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session; called at the start of every subtask."""

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide for every request, in order: one chunk of environment actions each."""


class BasePolicy(ABC):
    """A policy with all parts of the contract; those that are optional have defaults here.

    Calls come from one thread at a time. The life of a session is `reset`, any number of `act`
    and further `reset`, and one `end`; the same session may begin again later, when its chain is
    run again. Whatever a method raises, `SystemExit` included, is an error of the chain that was
    asked for, with the traceback in its record; it never ends the policy's process.
    """

    requirements: Requirements = Requirements()

    def reset(self, session: int, instruction: str) -> None:  # noqa: B027 - a default
        """Forget what is remembered of the session; called at the start of every subtask."""

    @abstractmethod
    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Decide for every request, in order: one chunk of environment actions each.

        Requests of one batch have different sessions. If it raises for a batch, each of its
        requests is asked again by itself, see `Request.attempt`.
        """

    def end(self, session: int) -> None:  # noqa: B027 - a default
        """Free what is kept for the session: its chain is over, finished or not.

        Does nothing for a session that is unknown or has ended.
        """

    def report(self) -> Mapping[str, Any] | None:
        """Facts about the run for its profile, which JSON can hold; None if there are none."""
        return None


def with_defaults(policy: Policy) -> BasePolicy:
    """The policy itself if it is a `BasePolicy`, else one that fills in what it lacks.

    Of an object with `requirements`, `reset` and `act` it uses the methods `end` and `report`,
    and the attribute `max_sessions`, where it has them.
    """
    if isinstance(policy, _WithDefaults):
        return policy
    limit = getattr(policy, "max_sessions", None)
    if isinstance(policy, BasePolicy) and limit is None:
        return policy
    return _WithDefaults(policy, limit)


class _WithDefaults(BasePolicy):
    """An object with at least `requirements`, `reset` and `act`, as a `BasePolicy`.

    All other attributes are the object's.
    """

    def __init__(self, policy: Policy, limit: int | None) -> None:
        self.policy = policy
        self.requirements = policy.requirements
        if limit is not None:
            self.requirements = replace(self.requirements, max_sessions=limit)
        self._end = _method(policy, "end", 0)
        self._report = _method(policy, "report")

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self.policy, name)

    def reset(self, session: int, instruction: str) -> None:
        self.policy.reset(session, instruction)

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        return self.policy.act(requests)

    def end(self, session: int) -> None:
        if self._end is not None:
            self._end(session)

    def report(self) -> Mapping[str, Any] | None:
        return None if self._report is None else self._report()


def _method(policy: object, name: str, *arguments: object) -> Callable[..., Any] | None:
    """The method of that name, if it takes these arguments: others may use the name otherwise."""
    found = getattr(policy, name, None)
    if not callable(found):
        return None
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError:
        return None
    except ValueError:  # some methods in C have no signature
        pass
    method: Callable[..., Any] = found
    return method
