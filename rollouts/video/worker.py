"""The process that makes videos: low priority, one chain after another, never in anyone's way.

Bullet's EGL plugin draws one world per process, and encoding takes a core's time: both are reasons
for a separate process. The scheduler gives it what the simulator's workers leave.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.video.films import Filmer, VideoSpec
from calvin_eval.rollouts.worker import SimulatorSpec

NICENESS = 10
_REPORT_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class VideoSetup:
    """What a process films until it ends: sent first; see `Filmer`."""

    spec: VideoSpec
    run: Path
    simulator: SimulatorSpec
    out: Path

    def open(self) -> Filmer:
        """The simulator and all, in this process."""
        return Filmer(self.spec, RunFolder.open(self.run), self.simulator, self.out)


@dataclass(frozen=True, kw_only=True)
class FilmJob:
    """Film these subtasks of a chain."""

    record: ChainRecord
    positions: tuple[int, ...]

    @property
    def steps(self) -> int:
        """States that will be drawn, each subtask's first among them, as far as is known."""
        subtasks = self.record.subtasks
        return sum(subtasks[i].steps + 1 for i in self.positions if i < len(subtasks))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """States drawn since the last report."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Filmed:
    """The job is done."""

    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class FilmLost:
    """The job cannot be done."""

    reason: str


class VideoWorker:
    """The child's side of its line."""

    def __init__(self, line: Connection[Any, Any]) -> None:
        self._line = line
        self._filmer: Filmer | None = None
        self._steps = 0
        self._reported = time.monotonic()

    def run(self) -> None:
        """Answer jobs until the line is closed."""
        try:
            setup: VideoSetup = self._line.recv()
            while True:
                self._line.send(self._guarded(setup, self._line.recv()))
        except (EOFError, BrokenPipeError):  # the parent needs no more
            pass
        if self._filmer is not None:
            self._filmer.close()

    def _guarded(self, setup: VideoSetup, job: FilmJob) -> Filmed | FilmLost:
        """No error of a video may be more than that video's."""
        try:
            if self._filmer is None:
                self._filmer = setup.open()
            files = self._filmer.film(job.record, job.positions, self._on_frame)
        except (CalvinEvalError, OSError) as error:
            return FilmLost(reason=str(error))
        except Exception as error:
            return FilmLost(reason=f"{type(error).__name__}: {error}")
        return Filmed(files=tuple(files))

    def _on_frame(self) -> None:
        self._steps += 1
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._line.send(Drawn(steps=self._steps))
            self._steps, self._reported = 0, now


def main() -> None:
    """Serve the parent that started this process."""
    from calvin_eval.rollouts.processes import join_parent

    line = join_parent()
    os.nice(NICENESS)
    VideoWorker(line).run()
