"""One episode: a chain of tasks, played by a demonstrator and kept frame by frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calvin_eval.errors import PolicyError, UsageError


@dataclass(frozen=True, kw_only=True)
class Subtask:
    """One task of an episode; frames count from the episode's first.

    Attributes:
        task: its name.
        success: whether it was solved.
        first: its first frame.
        end: the frame that shows what its last action led to.
        burst: first frame of a disturbance and the one after it, if there was one.
    """

    task: str
    success: bool
    first: int
    end: int
    burst: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A recorded episode.

    Attributes:
        number: position in its split.
        scene: A, B, C or D.
        frames: how many there are.
        initial_state: the symbolic state that it starts from.
    """

    number: int
    scene: str
    frames: int
    initial_state: Mapping[str, Any]
    subtasks: tuple[Subtask, ...]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Path) -> Episode:
        """The episode in a file that `to_json` made.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error}); remove its folder") from error

    @classmethod
    def from_json(cls, text: str) -> Episode:
        """The episode of a line that `to_json` made."""
        raw = json.loads(text)
        subtasks = tuple(
            Subtask(**{**s, "burst": None if s["burst"] is None else tuple(s["burst"])})
            for s in raw.pop("subtasks")
        )
        return cls(**raw, subtasks=subtasks)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Frames with a language label, both ends included, and the task that they show."""

    first: int
    last: int
    task: str


def labelled(episode: Episode, longest: int, shortest: int) -> list[Span]:
    """What of an episode gets a language label.

    Every solved subtask gives one span: it ends with the frame that shows the solution, begins
    after the subtask's disturbance, and is at most `longest` frames long, as CALVIN's are. What is
    shorter than `shortest` is play, like everything else.
    """
    spans = []
    for subtask in episode.subtasks:
        first = subtask.first if subtask.burst is None else subtask.burst[1]
        first = max(first, subtask.end - longest + 1)
        if subtask.success and subtask.end - first + 1 >= shortest:
            spans.append(Span(first=first, last=subtask.end, task=subtask.task))
    return spans


def summarize(
    record: Any, plan: Any, frames: int, bursts: Mapping[int, tuple[int, int]]
) -> Episode:
    """The episode of a chain's record.

    Args:
        record: the `ChainRecord`.
        plan: the `EpisodePlan`.
        frames: that were written.
        bursts: steps of disturbances by position of the subtask.

    Raises:
        PolicyError: the policy raised.
    """
    if record.error is not None:
        raise PolicyError(f"episode {plan.number}: the policy failed:\n{record.error}")
    subtasks, first = [], 0
    for position, subtask in enumerate(record.subtasks):
        end = first + subtask.steps
        burst = bursts.get(position)
        subtasks.append(
            Subtask(
                task=subtask.task,
                success=subtask.success,
                first=first,
                end=end,
                burst=None if burst is None else (first + burst[0], min(first + burst[1], end)),
            )
        )
        first = end
    return Episode(
        number=plan.number,
        scene=plan.scene,
        frames=frames,
        initial_state=dict(plan.chain.initial_state),
        subtasks=tuple(subtasks),
    )
