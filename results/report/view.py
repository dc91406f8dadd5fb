"""What a report says, before it is put into words: everything that the templates show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calvin_eval.results.conclude import facts_from_header, summarize_run
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import Summary, seconds_per_step
from calvin_eval.results.official import Verdict, official_verdict
from calvin_eval.results.report.facts import Section, Timing, provenance_sections, timing
from calvin_eval.results.report.gallery import (
    ChainRow,
    chain_rows,
    failures_with_video,
    find_videos,
)
from calvin_eval.results.report.rows import (
    Headline,
    PositionRow,
    TaskRow,
    curve_of,
    ends_of,
    headline_of,
    positions_of,
    tasks_of,
)
from calvin_eval.results.report.svg import Matrix, Plot
from calvin_eval.results.report.text import counted
from calvin_eval.results.report.transitions import MOST_PAIRS, TaskPair, pairs, transition_matrix
from calvin_eval.results.store import RunFolder

PROFILE = "profile.json"

_FILES = {
    "header.json": "configuration, versions, verdict",
    "chains.jsonl": "one record per chain",
    "summary.json": "the numbers above",
    "results.json": "upstream's own format",
    "tasks.csv": "the table of tasks",
    PROFILE: "timing per worker",
    "actions": "every action, to simulate the run again",
    "videos": "videos",
    "report.md": "this report in short",
}


@dataclass(frozen=True, kw_only=True)
class ReportView:
    """A run, ready for the templates.

    Attributes:
        title: what was evaluated.
        policy: the policy's own description.
        protocol: what it was evaluated on, in words.
        when: date of its start, empty if unknown.
        version: of calvin-eval that ran it.
        summary: its metrics.
        headline: None while it is withheld.
        withheld: why the run is not complete; empty if it is.
        verdict: None if the run was never judged.
        curve: success along the chain; None while the headline is withheld.
        ends: where chains end, which says the same; None likewise.
        positions: per place in the chain.
        tasks: the best first.
        pairs: task after task, those with the most failures first.
        matrix: all of them; None without any.
        chains: all chains with a record.
        filmed: failed chains with a video, a mixture of tasks first.
        timing: None if nothing is known.
        suspicions: what is suspicious about the executed actions.
        provenance: the header.
        files: names and meanings of the files that are there.
    """

    title: str
    policy: str
    protocol: str
    when: str
    version: str
    summary: Summary
    headline: Headline | None
    withheld: str
    verdict: Verdict | None
    curve: Plot | None
    ends: Plot | None
    positions: tuple[PositionRow, ...]
    tasks: tuple[TaskRow, ...]
    pairs: tuple[TaskPair, ...]
    matrix: Matrix | None
    chains: tuple[ChainRow, ...]
    filmed: tuple[ChainRow, ...]
    timing: Timing | None
    suspicions: tuple[str, ...]
    provenance: tuple[Section, ...]
    files: tuple[tuple[str, str], ...]

    def alone(self) -> ReportView:
        """The same for a page without the run folder: no videos, no links."""
        chains = tuple(replace(chain, videos=()) for chain in self.chains)
        return replace(self, chains=chains, filmed=(), files=())


def make_view(folder: RunFolder, *, partial: bool = False, judge: bool = False) -> ReportView:
    """Compute everything from a run folder.

    Args:
        folder: the run.
        partial: show the headline of the completed chains even while others are missing.
        judge: compute the verdict again; without, it is the header's own.

    Raises:
        RunFolderError: the folder is damaged, or lacks what the verdict is judged by.
    """
    header = folder.header()
    records = folder.records()
    summary = summarize_run(header, records)
    headline = headline_of(summary) if summary.complete or partial else None
    chains = chain_rows(records, find_videos(folder.path))
    return ReportView(
        title=header.config.ckpt or folder.path.name,
        policy=header.policy.description,
        protocol=_protocol(header),
        when=header.started_utc[:10],
        version=header.provenance.calvin_eval or "",
        summary=summary,
        headline=headline,
        withheld=_withheld(summary),
        verdict=_verdict(header, summary, judge=judge),
        curve=curve_of(headline),
        ends=ends_of(records) if headline else None,
        positions=positions_of(records, summary),
        tasks=tasks_of(records, summary),
        pairs=tuple(p for p in pairs(records)[:MOST_PAIRS] if p.failed),
        matrix=transition_matrix(pairs(records)),
        chains=tuple(chains),
        filmed=tuple(failures_with_video(chains)),
        timing=timing(_profile(folder), seconds_per_step(records)),
        suspicions=_suspicions(header),
        provenance=tuple(provenance_sections(header.document)),
        files=_files(folder.path),
    )


def _profile(folder: RunFolder) -> Any:
    """None if the run never came to its end."""
    return folder.read_json(PROFILE) if (folder.path / PROFILE).exists() else None


def _withheld(summary: Summary) -> str:
    if summary.complete:
        return ""
    return (
        f"{summary.completed} of {counted(summary.planned, 'chain')} completed, "
        f"{summary.errors} ended by an error, {summary.missing} missing"
    )


def _suspicions(header: Header) -> tuple[str, ...]:
    """Sentences of the convention check that are more than information."""
    findings = header.action_check.findings if header.action_check else ()
    return tuple(line for line in findings if not line.startswith("info"))


def _verdict(header: Header, summary: Summary, *, judge: bool) -> Verdict | None:
    if judge:
        return official_verdict(facts_from_header(header, summary))
    stated, fidelity = header.verdict, header.renderer.fidelity
    if stated is None:
        return None
    if fidelity and not stated.remarks:  # older runs state none
        stated = replace(stated, remarks=(f"The policy's images: {fidelity}.",))
    return replace(stated, official=stated.official and summary.complete)


def _protocol(header: Header) -> str:
    preset = header.config.policy.preset
    parts = [
        f"split {header.config.split}",
        f"scene {header.scene}",
        f"{header.assets.name} assets",
        f"{header.chains.list} chains",
        *([f"preset {preset}"] if preset else []),
    ]
    return " \N{MIDDLE DOT} ".join(parts)


def _files(run: Path) -> tuple[tuple[str, str], ...]:
    ours = ("tasks.csv", "report.md")  # written together with the report
    return tuple((n, what) for n, what in _FILES.items() if n in ours or (run / n).exists())
