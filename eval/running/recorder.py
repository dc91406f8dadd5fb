"""Between the engine and the run folder: what is reported is written down, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from calvin_eval.results.journal import Journal
from calvin_eval.results.profile import Profile
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.chain import ChainOutcome
from calvin_eval.rollouts.video.pool import VideoPool
from calvin_eval.running.checking import HEADER_KEY, ActionWatch
from calvin_eval.running.errors_seen import ErrorsSeen
from calvin_eval.wrappers.check import Finding


class Display(Protocol):
    """Who shows a run while it goes on."""

    def note(self, text: str) -> None:
        """Say one line."""

    def begin(
        self, chains: int, done: Sequence[ChainRecord], workers: int, title: str = ""
    ) -> None:
        """A run of so many chains starts, of which some may be done already."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """A worker took steps."""

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """One chain is finished; `shares` is where the time went so far."""

    def end(self) -> None:
        """The run is over, whatever its outcome."""


class Stop(Protocol):
    """Says when enough is known of a run."""

    @property
    def decision(self) -> object | None:
        """What was found, once it is enough."""

    def add(self, record: ChainRecord) -> object | None:
        """Take in a record; what was found, once it is enough."""


class RunRecorder:
    """Writes down what the engine reports, and shows it.

    Args:
        folder: where it is written down.
        journal: where records go.
        display: where it is shown.
        videos: makes videos of chains.
        gate: may be decided before the end.
        watch: looks at actions.

    Attributes:
        folder: where it is written down.
        display: where it is shown.
        seen: ids of the chains that were reported.
        profile: where the time went.
        errors: what ended chains, and whether that is enough.
        note: says one line.
    """

    def __init__(
        self,
        folder: RunFolder,
        journal: Journal,
        display: Display,
        *,
        videos: VideoPool | None = None,
        gate: Stop | None = None,
        watch: ActionWatch | None = None,
    ) -> None:
        self.folder, self.display = folder, display
        self.seen: set[int] = set()
        self._journal = journal
        self._videos = videos
        self._gate = gate
        self._watch = watch
        self._noted: set[str] = set()
        self.profile = Profile()
        self.errors = ErrorsSeen(None)
        self.note = display.note

    @property
    def done(self) -> bool:
        """Whether enough is known: no more chains have to be begun."""
        decided = self._gate is not None and self._gate.decision is not None
        return decided or self.errors.same is not None

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps."""
        self.profile.steps += steps
        self.display.progress(worker, chain, position, steps)

    def finished(self, worker: int, outcome: ChainOutcome, inference: float) -> None:
        """Keep a chain: its actions first, so that no record is ever without them."""
        self.folder.write_actions(outcome.record.chain, outcome.actions)
        self._journal.append(outcome.record)
        self.seen.add(outcome.record.chain)
        self.profile.add(worker, outcome.seconds, inference)
        if outcome.waits:
            waits = [(subtask.latencies, subtask.waited) for subtask in outcome.waits]
            self.profile.wait(outcome.record.chain, waits)
        self.display.record(worker, outcome.record, self.profile.shares())
        self._note_error(outcome.record)
        if self._videos is not None:
            self._videos.submit(outcome.record)
        if self._gate is not None and not self.done and self._gate.add(outcome.record):
            self.note(f"{self._gate.decision}; stopping after the chains in progress")
        if self._watch is not None:
            self._note_findings(self._watch.add(outcome))

    def give_up_videos(self) -> None:
        """Make no more of them."""
        if self._videos is not None:
            self._videos.close(wait=False)

    def _note_error(self, record: ChainRecord) -> None:
        """Say what ended a chain, unless it was said; and that it ends all of them."""
        was = self.errors.same
        if said := self.errors.add(record):
            self.note(said)
        if was is None and self.errors.same is not None:
            self.note(
                f"stopping: the first {len(self.seen)} chains all ended by the same error "
                f"(engine.same_errors): {self.errors.same}"
            )

    def _note_findings(self, findings: Sequence[Finding] | None) -> None:
        """Say once what is suspicious about the actions, and keep it in the header."""
        if findings is None or self._watch is None:
            return
        for finding in findings:
            if finding.code not in self._noted:
                self.note(f"actions: {finding}")
        self._noted |= {finding.code for finding in findings}
        stored = {"actions": self._watch.actions, "findings": [str(f) for f in findings]}
        self.folder.update_header(**{HEADER_KEY: stored})
