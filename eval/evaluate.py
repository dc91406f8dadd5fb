"""From a configuration to a run folder: the place where the folders meet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from calvin_eval.config import EvalConfig, policy_name
from calvin_eval.prepare import (
    RESUME_SECTIONS,
    Plan,
    choose_workers,
    make_plan,
    open_policy,
    set_stage,
    utc_now,
)
from calvin_eval.results.journal import Journal
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.official import Verdict, official_verdict
from calvin_eval.results.profile import Profile
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.upstream import upstream_results
from calvin_eval.rollouts.chain import Outcome
from calvin_eval.rollouts.inline import InlineEngine
from calvin_eval.rollouts.local import FaultRules, LocalEngine

EXIT_DONE, EXIT_ERRORS, EXIT_INTERRUPTED = 0, 3, 130


class Display(Protocol):
    """Who shows a run while it goes on."""

    def note(self, text: str) -> None:
        """Say one line."""

    def begin(self, chains: int, done: Sequence[ChainRecord], workers: int) -> None:
        """A run of so many chains starts, of which some may be done already."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """A worker took steps."""

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """One chain is finished; `shares` is where the time went so far."""

    def end(self) -> None:
        """The run is over, whatever its outcome."""


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
    """

    folder: Path
    records: tuple[ChainRecord, ...]
    summary: Summary
    verdict: Verdict
    policy: str
    advice: str
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 for a complete run, 3 for one with errors, 130 for one that was stopped."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_DONE if self.summary.complete else EXIT_ERRORS


class Recorder:
    """Writes down what the engine reports, and shows it."""

    def __init__(self, folder: RunFolder, journal: Journal, display: Display) -> None:
        self._folder = folder
        self._journal = journal
        self._display = display
        self.profile = Profile()
        self.note = display.note

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps."""
        self.profile.steps += steps
        self._display.progress(worker, chain, position, steps)

    def finished(self, worker: int, outcome: Outcome, inference: float) -> None:
        """Keep a chain: its actions first, so that no record is ever without them."""
        self._folder.write_actions(outcome.record.chain, outcome.actions)
        self._journal.append(outcome.record)
        self.profile.add(worker, outcome.seconds, inference)
        self._display.record(worker, outcome.record, self.profile.shares())


def run_evaluations(configs: Sequence[EvalConfig], display: Display) -> list[Run]:
    """Run several configurations one after another; those that differ in nothing but the policy
    share their workers.

    Raises:
        CalvinEvalError: something that the user can mend, before or during a run.
        KeyboardInterrupt: the second Ctrl-C; the finished chains are safe.
    """  # noqa: D205 - one sentence
    runs: list[Run] = []
    engine: LocalEngine | InlineEngine | None = None
    try:
        for config in configs:
            stage = set_stage(config)
            policy = open_policy(config)
            try:
                plan = make_plan(stage, policy)
                engine = engine or make_engine(plan)
                runs.append(run_plan(plan, engine, display))
            finally:
                policy.close()
            if runs[-1].interrupted:
                break
    finally:
        if engine is not None:
            engine.close()
    return runs


def make_engine(plan: Plan) -> Any:
    """The engine that the configuration names."""
    engine = plan.config.engine
    faults = FaultRules(
        retries=engine.retries, step_timeout=engine.step_timeout, max_errors=engine.max_errors
    )
    workers = choose_workers(plan)
    return LocalEngine(workers, faults) if workers else InlineEngine(faults)


def run_plan(plan: Plan, engine: Any, display: Display) -> Run:
    """Run the chains of a plan that are not done yet, and write the run folder."""
    started = time.monotonic()
    folder, done = _open_folder(plan)
    _introduce(plan, folder, display)
    todo = [chain for chain in plan.stage.chains if chain.id not in done]
    status = "error"
    with folder.journal() as journal:
        recorder = Recorder(folder, journal, display)
        try:
            display.begin(len(plan.stage.chains), list(done.values()), choose_workers(plan))
            if todo:
                engine.run(todo, plan.assignment, plan.policy.hosts, recorder)
            status = "interrupted" if engine.interrupted else "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            display.end()
            folder.update_header(status=status, ended_utc=utc_now())
    folder.settle()
    return _conclude(plan, folder, recorder.profile, time.monotonic() - started)


def _open_folder(plan: Plan) -> tuple[RunFolder, dict[int, ChainRecord]]:
    """The run folder, new or to be completed, and the chains that are completed in it."""
    header = plan.header()
    path = run_path(plan.config)
    if not plan.config.resume:
        return RunFolder.create(path, header, overwrite=plan.config.overwrite), {}
    folder = RunFolder.open(path)
    folder.require_same(header, RESUME_SECTIONS)
    folder.update_header(status="started", resumed_utc=utc_now())
    return folder, {r.chain: r for r in folder.records() if r.status == "completed"}


def _introduce(plan: Plan, folder: RunFolder, display: Display) -> None:
    stage = plan.stage
    chains = stage.chain_list
    display.note(f"policy: {plan.policy.description}")
    display.note(
        f"assets: {stage.pack.name} pack {stage.pack.fingerprint[:12]}, scene {plan.config.scene}"
    )
    display.note(f"chains: {len(stage.chains)} of {chains.name} list {chains.sha256[:12]}")
    render = plan.render
    parts = (render.backend, render.renderer, render.version)
    drawn = ", ".join(filter(None, parts)) if plan.policy.requirements.cameras else ""
    display.note(f"renderer: {drawn or 'none (the policy needs no images)'}")
    display.note(f"writing to {short_path(folder.path)}")


def _conclude(plan: Plan, folder: RunFolder, profile: Profile, wall: float) -> Run:
    records = tuple(folder.records())
    summary = summarize(records, len(plan.stage.chains))
    verdict = official_verdict(plan.facts(summary))
    stated = {"official": verdict.official, "reasons": list(verdict.reasons)}
    folder.update_header(verdict=stated)
    folder.write_json("summary.json", {**summary.to_json(), "verdict": stated})
    folder.write_json("profile.json", profile.to_json(wall, plan.render.backend))
    if summary.complete:
        folder.write_json("results.json", upstream_results(records))
    return Run(
        folder=folder.path,
        records=records,
        summary=summary,
        verdict=verdict,
        policy=plan.policy.description,
        advice=profile.advice(plan.render.backend),
        interrupted=folder.status == "interrupted",
    )


def run_path(config: EvalConfig) -> Path:
    """The run folder that a configuration names or implies."""
    if config.out is not None:
        return Path(config.out)
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{policy_name(config.ckpt)}-{config.split}-{moment}"


def short_path(path: Path) -> str:
    """Relative to the current directory where that is shorter to read."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
