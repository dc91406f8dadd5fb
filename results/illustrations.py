"""Pictures of failures: six moments of each, and the course of its chain.

Made by simulating again (`calvin_eval.rollouts.diagnosis.illustrating`), shown by the page. They
are no part of `diagnosis.json`, whose bytes do not depend on who draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""First and last state, counted from 0, of a time in which something held."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One frame of a strip.

    Attributes:
        name: what it is.
        note: when it was, or why there is no picture of it.
    """

    name: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What was seen of one subtask, from the state that it began in.

    Attributes:
        task: its name.
        success: how it ended.
        steps: actions; there is one state more.
        progress: 0..1 at evenly spaced states, the first and the last among them.
        target: when the robot touched what the task is about.
        other: when it touched any other object, the table itself not counted.
        closed: when the gripper was told to be closed.
    """

    task: str
    success: bool
    steps: int
    progress: tuple[float, ...]
    target: tuple[Span, ...]
    other: tuple[Span, ...]
    closed: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """Pictures of one failure.

    Attributes:
        chain: the chain's id.
        strip: WebP, the moments side by side from the left, all of one width.
        moments: the same in words.
        course: of the chain's subtasks, the failed one last.
    """

    chain: int
    strip: bytes
    moments: tuple[Moment, ...]
    course: tuple[Stretch, ...]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All pictures of a run's failures.

    Attributes:
        illustrations: by chain.
        videos: by chain, the path of a film of policy and expert, relative to the run's folder.
    """

    illustrations: Mapping[int, Illustration] = field(default_factory=dict)
    videos: Mapping[int, str] = field(default_factory=dict)

    def first(self, chains: Sequence[int], most_bytes: int) -> tuple[int, ...]:
        """Those of the given chains whose strips, one after another, have so many bytes at most."""
        shown: list[int] = []
        for chain in chains:
            found = self.illustrations.get(chain)
            if found is not None and (most_bytes := most_bytes - len(found.strip)) >= 0:
                shown.append(chain)
        return tuple(shown)
