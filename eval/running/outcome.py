"""The outcome of an evaluation: a run that is over, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.card import CardCheck
from calvin_eval.results.gate_spec import Decision
from calvin_eval.results.metrics import Summary
from calvin_eval.results.official import Verdict
from calvin_eval.results.schema import ChainRecord

EXIT_DONE, EXIT_ERRORS, EXIT_INTERRUPTED = 0, 3, 130


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is over.

    Attributes:
        folder: where its files are.
        records: its chains, in order of their ids.
        summary: its metrics.
        verdict: whether it is official, and why not.
        policy: one line about what was evaluated.
        advice: one line about where the time went.
        interrupted: whether it was stopped before its end.
        decision: of the gate that it was checked by, if there was one.
        check: of the checkpoint card that it was expected to reproduce, if there was one.
    """

    folder: Path
    records: tuple[ChainRecord, ...]
    summary: Summary
    verdict: Verdict
    policy: str
    advice: str
    interrupted: bool
    decision: Decision | None = None
    check: CardCheck | None = None

    @property
    def errors(self) -> dict[int, str]:
        """What ended the chains that ended by an error, in one line each, by chain."""
        broken = (record for record in self.records if record.status == "error")
        return {record.chain: record.cause for record in broken}

    @property
    def exit_code(self) -> int:
        """0 for a complete run, 3 for one with errors, 130 for one that was stopped.

        A gate that decides ends a run before it is complete: what counts then is the decision.
        """
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.decision is not None:
            return self.decision.exit_code()
        return EXIT_DONE if self.summary.complete else EXIT_ERRORS


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A checkpoint of several that could not be evaluated.

    Attributes:
        name: of its run folder, had there been one.
        error: the reason.
    """

    name: str
    error: CalvinEvalError
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """That of the error."""
        return self.error.exit_code
