"""What a training tells about itself while it runs, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from calvin_eval.vla.training.saving import Position
from calvin_eval.vla.training.setup import PartReport


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known before the first step.

    Attributes:
        parameters: by part of the model.
        samples: of the training data.
        total: steps in all.
        start: steps done before.
        device: where it runs.
        precision: accelerate's name of it.
        processes: how many train together.
    """

    parameters: tuple[PartReport, ...]
    samples: int
    total: int
    start: int
    device: str
    precision: str
    processes: int


class TrainingWatcher(Protocol):
    """Receives what happens in a training; only the main process calls it."""

    def reading(self, split: str, done: int, total: int) -> None:
        """Frames are read into memory."""
        ...

    def begin(self, facts: Facts) -> None:
        """Training starts."""
        ...

    def stepped(self, position: Position, values: Mapping[str, float]) -> None:
        """A step is done; values are those logged now, if any."""
        ...

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint is there."""
        ...

    def evaluate(self, folder: Path, position: Position) -> Mapping[str, float]:
        """Score the newest checkpoint in a run folder; scores by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What came of a training.

    Attributes:
        folder: of the run.
        position: how far it got.
        checkpoint: the last one.
        interrupted: whether it was stopped before its end.
        values: the last that were logged of each name.
        samples_per_second: while training, without validation, saving and evaluation.
        seconds: in all.
        main: whether this is the process that writes and tells.
    """

    folder: Path
    position: Position
    checkpoint: Path
    interrupted: bool
    values: Mapping[str, float]
    samples_per_second: float
    seconds: float
    main: bool


@dataclass
class Clock:
    """Samples and seconds of training alone."""

    samples: int = 0
    seconds: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """Count some."""
        self.samples += samples
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds if self.seconds else 0.0
