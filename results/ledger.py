"""What a run claims, and how `verify` treats each of its facts.

Every entry of a header, of a record and every file of a run is in `LEDGER`, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from calvin_eval.results.conclude import facts_from_header, summarize_run
from calvin_eval.results.header import Header
from calvin_eval.results.intervals import Interval
from calvin_eval.results.official import official_verdict
from calvin_eval.results.schema import ChainRecord

Treatment: TypeAlias = Literal["recomputed", "cross-checked", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Facts that are treated alike.

    Attributes:
        facts: paths of header entries (`scene`, `config.seed`), entries of a record
            (`record.tasks`) and files; `x.*` stands for everything inside of x.
        treatment: what is done with them.
        why: what they are compared with, or why nothing can be.
    """

    facts: tuple[str, ...]
    treatment: Treatment
    why: str


LEDGER: Final[tuple[Entry, ...]] = (
    Entry(
        facts=(
            "record.subtasks.success", "record.subtasks.steps", "record.subtasks.state_hash",
            "record.subtasks.task", "scene", "revision", "config.sim.revision",
            "config.sim.deterministic", "config.protocol.world_reset",
        ),
        treatment="recomputed",
        why="by simulating the stored actions of the chains that are looked at",
    ),
    Entry(
        facts=("config.protocol.steps", "config.protocol.budget"),
        treatment="recomputed",
        why="from the number of actions, if a chain failed: a failure has used its whole budget",
    ),
    Entry(
        facts=(
            "chains.sha256", "chains.planned", "config.protocol.layout",
            "config.protocol.num_chains", "config.protocol.select", "config.shard",
            "record.chain", "record.initial_state", "record.start", "record.tasks",
        ),
        treatment="recomputed",
        why="from the chain list, if it is at hand",
    ),
    Entry(
        facts=(
            "instructions.sha256", "record.subtasks.instruction",
            "config.protocol.instruction_lines", "config.protocol.instruction_draw",
        ),
        treatment="recomputed",
        why="from the sentences, if they are at hand",
    ),
    Entry(
        facts=("assets.fingerprint",),
        treatment="recomputed",
        why="from the asset pack, if it is at hand",
    ),
    Entry(
        facts=("verdict.*", "summary.json", "results.json"),
        treatment="recomputed",
        why="from the records and the header",
    ),
    Entry(
        facts=(
            "assets.name", "chains.list", "instructions.name", "policy.ckpt", "policy.options.*",
            "policy.stages.*", "policy.seed", 
            "renderer.requested", "renderer.options.*", "config.ckpt", "config.seed",
            "config.sim.assets", "config.sim.render", "config.sim.draw.*",
            "config.protocol.chains", "config.protocol.instructions", "config.policy.options.*",
            "config.policy.observe.*", "config.policy.actions.*",
        ),
        treatment="cross-checked",
        why="as far as the header says them twice, it says them alike; whoever edits both is not "
        "found",
    ),
    Entry(
        facts=("config.protocol.shift",),
        treatment="not checked",
        why="whether the policy saw what the shifts make of images: physical shifts show in the "
        "states and shifted sentences in the instructions, which are recomputed; images do not",
    ),
    Entry(
        facts=(
            "config.protocol.policy_reset", "config.protocol.leftover", "config.protocol.execute",
            "config.protocol.realtime.*",
        ),
        treatment="not checked",
        why="when the policy was asked and reset: actions do not show it, and the verdict takes "
        "the header's word",
    ),
    Entry(
        facts=("policy.*", "config.policy.*"),
        treatment="not checked",
        why="whether these actions are the policy's own, and which images, sentences and state it "
        "saw: no record can show it, and the verdict takes the header's word",
    ),
    Entry(
        facts=("config.split", "meta.json"),
        treatment="not checked",
        why="what the policy was trained on, and what else its card says: split, scene and card "
        "have to agree, no more",
    ),
    Entry(
        facts=("renderer.*",),
        treatment="not checked",
        why="which renderer and driver drew, and how near its images are to EGL's",
    ),
    Entry(
        facts=(
            "schema_version", "status", "run_id", "started_utc", "resumed_utc", "ended_utc",
            "provenance.*", "machine.*", "engine.*", "selftest.*", "merged_from.*",
            "config.sim.backend", "config.sim.verify", "record.subtasks.seconds",
        ),
        treatment="not checked",
        why="who ran it where, when, how fast and with which versions",
    ),
    Entry(
        facts=(
            "action_check.*", "reproducibility.*", "record.status", "record.error",
            "profile.json", "diagnosis.json", "report.*", "tasks.csv", "videos/*",
        ),
        treatment="not checked",
        why="errors, what the run noticed about its policy and its actions, its times, reports "
        "and videos",
    ),
)  # fmt: skip
"""A fact has the treatment of the first entry that names it."""


def treatment_of(fact: str) -> Entry | None:
    """The entry that a fact falls under; None if nobody has thought of it."""
    return next((entry for entry in LEDGER if any(_names(f, fact) for f in entry.facts)), None)


def _names(pattern: str, fact: str) -> bool:
    inside = pattern.removesuffix(".*")
    return fact == inside or (inside != pattern and fact.startswith(f"{inside}."))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a run's records and header say, computed and not read.

    Attributes:
        planned: chains that it was meant to have.
        completed: of them, those that ended by success or failure.
        chain_list: name of their list.
        average_length: mean number of tasks in a row; None while the run is not complete.
        interval: its 95 % interval; None likewise.
        official: whether nothing that the header says speaks against it.
        reasons: what does.
    """

    planned: int
    completed: int
    chain_list: str
    average_length: float | None
    interval: Interval | None
    official: bool
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, header: Header, records: Sequence[ChainRecord]) -> Claim:
        """What these say; RunFolderError if they do not belong together."""
        summary = summarize_run(header, records)
        verdict = official_verdict(facts_from_header(header, summary))
        return cls(
            planned=summary.planned,
            completed=summary.completed,
            chain_list=header.chains.list,
            average_length=summary.average_length,
            interval=summary.average_length_interval,
            official=verdict.official,
            reasons=verdict.reasons,
        )

    def __str__(self) -> str:
        """One line."""
        chains = f"{self.completed} of {self.planned} chains of the list {self.chain_list!r}"
        if self.average_length is None or self.interval is None:
            return f"incomplete, {chains}: no average length; not official"
        low, high = self.interval.low, self.interval.high
        official = (
            "official, if what is not checked is true"
            if self.official
            else f"not official ({len(self.reasons)} reasons)"
        )
        return (
            f"average length {self.average_length:.3f} (95 % {low:.3f} to {high:.3f}), {chains}; "
            f"{official}"
        )


def ledger_to_json() -> list[dict[str, Any]]:
    """JSON values of `LEDGER`."""
    return [asdict(entry) for entry in LEDGER]
