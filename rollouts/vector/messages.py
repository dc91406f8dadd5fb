"""What a vector environment and its worker processes say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from calvin_eval.rollouts.vector.shared import Field

ACTION, REWARD, TERMINATED, TRUNCATED = "action", "reward", "terminated", "truncated"
"""Names of shared arrays; those of observations begin with `OBSERVED`."""
OBSERVED = "obs:"

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Build:
    """Make worlds; answered with `Spaces`.

    Attributes:
        worlds: their numbers among all worlds.
        table: arguments of `PlayTable`.
        max_steps: after which an episode is truncated.
        autoreset: value of Gymnasium's `AutoresetMode`.
        eager: whether a world whose episode has ended starts over before it is asked to.
    """

    worlds: tuple[int, ...]
    table: Mapping[str, Any]
    max_steps: int
    autoreset: str
    eager: bool


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """The spaces of one world, and the class's metadata."""

    observation: Any
    action: Any
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The memory comes next."""

    fields: Mapping[str, Field]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Step worlds with their shared actions; answered with `Stepped`."""

    worlds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Observations, rewards and ends are in the shared arrays."""

    infos: Mapping[int, Info]


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Start one world over; answered with `Restarted`.

    Attributes:
        serial: number of this start of the world, by which an answer to an older one is known.
        instead: of the start that the world began by itself and that nobody has seen, whose
            random draws are taken back.
    """

    world: int
    serial: int
    seed: int | None = None
    options: Mapping[str, Any] | None = None
    instead: bool = False


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """A world's first observation, which is not in the shared arrays: somebody may read them."""

    world: int
    serial: int
    obs: Observation
    info: Info


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Render all worlds; answered with their images."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A message could not be obeyed.

    Attributes:
        error: what the user is told.
        world: and `serial`, of the start that failed; -1 for anything else.
    """

    error: Exception
    world: int = -1
    serial: int = -1
