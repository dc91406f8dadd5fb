"""One episode: a chain of tasks, played by a demonstrator and kept frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calvin_eval.errors import PolicyError, UsageError
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.rollouts.recording.plan import EpisodePlan
from calvin_eval.rollouts.recording.tape import Tape
from calvin_eval.sim.oracle import TaskOracle


@dataclass(frozen=True, kw_only=True)
class Subtask:
    """One task of an episode; frames count from the episode's first.

    Attributes:
        task: its name.
        success: whether it was solved.
        first: its first frame.
        end: the frame that shows what its last action led to.
        burst: first frame of a disturbance and the one after it, if there was one.
        label: first frame of the demonstration that gets a sentence, which lasts to `end`; None if
            there is none.
    """

    task: str
    success: bool
    first: int
    end: int
    burst: tuple[int, int] | None = None
    label: int | None = None


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
class LabelRules:
    """Which frames of a solved subtask get a sentence.

    Attributes:
        longest: frames at most, unless the task cannot be seen in so few.
        shortest: frames at least; what is shorter is play, like all that has no sentence.
    """

    longest: int = 64
    shortest: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(
                "expected demonstrations of at least 1 frame and of no fewer at most than at "
                f"least; found {self.shortest} to {self.longest}"
            )

    def first_frame(self, subtask: Subtask, solved_from: Callable[[int], bool]) -> int | None:
        """Where the demonstration begins.

        It ends with the frame that shows the solution and begins after a disturbance. If the task
        is not seen between these two, it begins earlier, down to the subtask's first frame.

        Args:
            subtask: a solved one.
            solved_from: whether the oracle sees the task between a frame and the end.
        """
        earliest = subtask.first if subtask.burst is None else subtask.burst[1]
        latest = subtask.end - self.shortest + 1
        wanted = max(earliest, subtask.end - self.longest + 1)
        if wanted > latest:
            return None
        return next((f for f in range(wanted, earliest - 1, -1) if solved_from(f)), None)


def summarize(
    record: ChainRecord,
    plan: EpisodePlan,
    tape: Tape,
    bursts: Mapping[int, tuple[int, int]],
    oracle: TaskOracle,
    rules: LabelRules,
) -> Episode:
    """What a chain's record and its tape come to.

    Args:
        record: of the chain.
        plan: what it was.
        tape: that it was recorded on, complete.
        bursts: steps of disturbances by position of the subtask.
        oracle: judges whether a demonstration shows its task.
        rules: of demonstrations.

    Raises:
        PolicyError: the policy raised.
    """
    if record.error is not None:
        raise PolicyError(f"episode {plan.number}: the policy failed:\n{record.error}")
    subtasks: list[Subtask] = []
    for position, done in enumerate(record.subtasks):
        first = subtasks[-1].end if subtasks else 0
        subtask = _subtask(done, first, bursts.get(position))
        if done.success:
            seen = _Seen(tape.watched[position], first, done.task, oracle)
            subtask = replace(subtask, label=rules.first_frame(subtask, seen.solved_from))
        subtasks.append(subtask)
    return Episode(
        number=plan.number,
        scene=plan.scene,
        frames=tape.frames,
        initial_state=dict(plan.chain.initial_state),
        subtasks=tuple(subtasks),
    )


def _subtask(done: SubtaskRecord, first: int, burst: tuple[int, int] | None) -> Subtask:
    """A subtask that began at a frame; a burst counts from there, and may outlast it."""
    end = first + done.steps
    if burst is not None:
        burst = first + burst[0], min(first + burst[1], end)
    return Subtask(task=done.task, success=done.success, first=first, end=end, burst=burst)


@dataclass(frozen=True)
class _Seen:
    infos: Sequence[Mapping[str, Any]]
    first: int
    task: str
    oracle: TaskOracle

    def solved_from(self, frame: int) -> bool:
        start = self.infos[frame - self.first]
        return bool(self.oracle.achieved(start, self.infos[-1], (self.task,)))
