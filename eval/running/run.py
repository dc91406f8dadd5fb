"""From a configuration to a run folder: the place where the folders meet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from calvin_eval.config.schema import EvalConfig, policy_name
from calvin_eval.errors import CalvinEvalError, UsageError
from calvin_eval.results.card import Card, CardCheck, check_card, read_card
from calvin_eval.results.conclude import conclude
from calvin_eval.results.gate import check_baseline, read_baseline
from calvin_eval.results.gate_spec import Decision, parse_gate
from calvin_eval.results.header import SAME_RUN
from calvin_eval.results.journal import Journal
from calvin_eval.results.junit import write_junit
from calvin_eval.results.profile import Profile
from calvin_eval.results.report import write_reports
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.sequential import SequentialGate
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.engine import Engine, FaultRules
from calvin_eval.rollouts.inline import InlineEngine
from calvin_eval.rollouts.local import LocalWorkers
from calvin_eval.rollouts.policy_log import NAME as POLICY_LOG
from calvin_eval.rollouts.ray.cluster import connect
from calvin_eval.rollouts.supervisor import SupervisedEngine
from calvin_eval.rollouts.video.films import VideoSpec, parse_which
from calvin_eval.rollouts.video.pool import VideoPool
from calvin_eval.running.checking import ActionWatch
from calvin_eval.running.errors_seen import ErrorsSeen
from calvin_eval.running.introduction import introduce
from calvin_eval.running.outcome import FailedRun, Run
from calvin_eval.running.packages import require_all_installed, require_installed
from calvin_eval.running.paths import run_path
from calvin_eval.running.prepare import (
    RunPlan,
    choose_workers,
    gather_inputs,
    make_plan,
    open_policy,
    utc_now,
)
from calvin_eval.running.recorder import Display, RunRecorder, Stop
from calvin_eval.running.reproducibility import check_reproducible
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.selftest import quick_selftest


def run_evaluation(config: EvalConfig, display: Display) -> Run:
    """Run one configuration.

    Raises:
        CalvinEvalError: something that the user can fix, before or during the run.
        KeyboardInterrupt: the second Ctrl-C; the finished chains are safe.
    """
    with Evaluations(display) as evaluations:
        return evaluations.run(config)


def run_evaluations(configs: Sequence[EvalConfig], display: Display) -> list[Run | FailedRun]:
    """Run several configurations one after another, with the same workers.

    One that cannot be run becomes a `FailedRun`, and the next one follows.

    Raises:
        MissingExtraError: one needs a package that is not installed; none has started then.
        KeyboardInterrupt: the second Ctrl-C; the finished chains are safe.
    """
    require_all_installed(configs)
    runs: list[Run | FailedRun] = []
    with Evaluations(display) as evaluations:
        for config in configs:
            try:
                runs.append(evaluations.run(config))
            except CalvinEvalError as error:
                display.note(f"error: {config.ckpt}: {error}")
                runs.append(FailedRun(name=run_path(config).name, error=error))
            if runs[-1].interrupted or evaluations.interrupted:
                break
    return runs


class Evaluations:
    """Evaluations that differ in nothing but the policy, and share their workers."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._engine: Engine | None = None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    @property
    def interrupted(self) -> bool:
        """Whether the user has asked for the end."""
        return self._engine is not None and self._engine.interrupted

    def run(self, config: EvalConfig) -> Run:
        """Run one configuration; after an error the next one gets new workers."""
        require_installed(config)
        inputs = gather_inputs(config)
        policy = open_policy(config)
        try:
            plan = make_plan(inputs, policy)
            self._engine = self._engine or make_engine(plan)
            return run_plan(plan, self._engine, self._display)
        except CalvinEvalError:
            self._close()
            raise
        finally:
            policy.close()

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def make_engine(plan: RunPlan) -> Engine:
    """The engine that the configuration names."""
    engine = plan.config.engine
    faults = FaultRules(
        retries=engine.retries, step_timeout=engine.step_timeout, max_errors=engine.max_errors
    )
    if engine.name == "ray":
        connect(engine.address)
        from calvin_eval.rollouts.ray.workers import RayWorkers

        return SupervisedEngine(RayWorkers(choose_workers(plan)), faults)
    workers = choose_workers(plan)
    return SupervisedEngine(LocalWorkers(workers), faults) if workers else InlineEngine(faults)


def run_plan(plan: RunPlan, engine: Engine, display: Display, stop: Stop | None = None) -> Run:
    """Run the chains of a plan that are not done yet, and write the run folder.

    Args:
        plan: of the run.
        engine: does the work.
        display: shows it.
        stop: may end a run that has no gate; what it finds does not decide the exit code.
    """
    started = time.monotonic()
    gate, card = _make_gate(plan), _read_card(plan)
    with contextlib.ExitStack() as held:
        folder, journal, done = _open_folder(plan, display, held)
        plan.policy.log.keep(folder.path / POLICY_LOG)
        introduce(plan, folder, display)
        check_reproducible(plan, folder, display)
        videos = _make_videos(plan, folder, display)
        if videos is not None:
            held.enter_context(contextlib.closing(videos))
            videos.catch_up(done.values())
        watch = ActionWatch(plan.policy.metadata)
        stop = gate or stop
        recorder = RunRecorder(folder, journal, display, videos=videos, gate=stop, watch=watch)
        recorder.errors = ErrorsSeen(plan.config.engine.same_errors)
        if stop is not None:
            for record in done.values():
                stop.add(record)
        check = _run_all(plan, engine, recorder, done, card)
        _draw_the_rest(videos, display)
    folder.settle()
    run = _conclude(plan, folder, recorder.profile, time.monotonic() - started)
    return replace(run, check=check, decision=_decide(plan, folder, gate))


def _run_all(
    plan: RunPlan,
    engine: Engine,
    recorder: RunRecorder,
    done: Mapping[int, ChainRecord],
    card: Card | None,
) -> CardCheck | None:
    """Run what is not done yet, the chains of a card first, and write down how it ended."""
    status, check = "error", None
    display, folder = recorder.display, recorder.folder
    todo = [chain for chain in plan.inputs.chains if chain.id not in done]
    try:
        title = f"{policy_name(plan.config.ckpt)} · {plan.config.split}"
        display.begin(len(plan.inputs.chains), list(done.values()), choose_workers(plan), title)
        if card is not None:
            first = {chain.chain for chain in card.chains}
            _run_chains(plan, engine, [c for c in todo if c.id in first], recorder)
            check = check_card(card, folder.records())
            display.note(f"card: {check}")
        _run_chains(plan, engine, [c for c in todo if c.id not in recorder.seen], recorder)
        # Ctrl-C while the last chains end leaves nothing to be completed.
        left = recorder.seen < {chain.id for chain in todo}
        status = "interrupted" if engine.interrupted and left else "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        recorder.give_up_videos()
        raise
    finally:
        display.end()
        folder.update_header(status=status, ended_utc=utc_now())
    return check


def _draw_the_rest(videos: VideoPool | None, display: Display) -> None:
    """Wait for the videos; Ctrl-C gives them up, and nothing else: the chains are done."""
    if videos is None:
        return
    if videos.left > 0:
        display.note(f"drawing {videos.left} more frames of videos; Ctrl-C leaves them out")
    try:
        videos.close()
    except KeyboardInterrupt:
        display.note("the videos that are missing were left out")


def _run_chains(
    plan: RunPlan, engine: Engine, chains: Sequence[Chain], recorder: RunRecorder
) -> None:
    if chains and not engine.interrupted and not recorder.done:
        engine.run(chains, plan.assignment, plan.policy.hosts, recorder)


def _make_videos(plan: RunPlan, folder: RunFolder, display: Display) -> VideoPool | None:
    video = plan.config.video
    if video.which == "none":
        return None
    spec = VideoSpec(
        which=parse_which(video.which),
        per=video.per,  # type: ignore[arg-type]
        format=video.format,
        cameras=video.cameras,
        height=video.height,
    )
    return VideoPool(spec, folder, plan.simulator(), display.note)


def _make_gate(plan: RunPlan) -> SequentialGate | None:
    """The gate that is looked at while the run goes on."""
    config = plan.config
    if config.gate is None:
        return None
    planned = [chain.id for chain in plan.inputs.chains]
    lengths = None
    if config.baseline is not None:
        baseline = read_baseline(config.baseline)
        check_baseline(plan.header, baseline, force=False)
        lengths = baseline.lengths
    return SequentialGate(parse_gate(config.gate), planned, lengths)


def _decide(plan: RunPlan, folder: RunFolder, gate: SequentialGate | None) -> Decision | None:
    """The gate's final decision, also written to junit.xml in the run folder."""
    if gate is None:
        return None
    decision = gate.state()
    write_junit(decision, folder.path)
    return decision


def _read_card(plan: RunPlan) -> Card | None:
    """The card whose chains are run first; raises UsageError if it is of another protocol."""
    if plan.config.expect is None:
        return None
    card = read_card(plan.config.expect)
    different = [d for d in card.differences(plan.header) if not d.key.startswith("policy")]
    if different:
        raise UsageError(
            f"expected the protocol of the card {plan.config.expect}, found differences: "
            f"{'; '.join(map(str, different))}. Run with the card's settings."
        )
    return card


def _open_folder(
    plan: RunPlan, display: Display, held: contextlib.ExitStack
) -> tuple[RunFolder, Journal, dict[int, ChainRecord]]:
    """The run folder, new or to be completed; its journal, held; the chains completed in it."""
    header = {**plan.header.document, "selftest": _selftest(plan, display)}
    path = run_path(plan.config)
    if not plan.config.resume:
        folder = RunFolder.create(path, header, overwrite=plan.config.overwrite)
        return folder, held.enter_context(folder.journal()), {}
    folder = RunFolder.open(path)
    folder.require_same(header, SAME_RUN)
    journal = held.enter_context(folder.journal())  # before anything is changed
    folder.remove_remains()
    folder.update_header(status="started", resumed_utc=utc_now())
    return folder, journal, {r.chain: r for r in folder.records() if r.status == "completed"}


def _selftest(plan: RunPlan, display: Display) -> dict[str, Any]:
    """Whether this machine computes the reference's bits; said aloud if it does not."""
    result = quick_selftest(plan.inputs.pack, plan.config.scene, plan.config.protocol.revision)
    if result.outcome == "different":
        display.note(f"warning: {result.message}")
    return result.as_dict()


def _conclude(plan: RunPlan, folder: RunFolder, profile: Profile, wall: float) -> Run:
    result = conclude(folder)
    times = profile.to_json(wall, plan.render.backend)
    if said := plan.policy.report():
        times["policy"] = said
    folder.write_json("profile.json", times)
    write_reports(folder, judge=True)
    return Run(
        folder=folder.path,
        records=result.records,
        summary=result.summary,
        verdict=result.verdict,
        policy=plan.policy.description,
        advice=profile.advice(plan.render.backend),
        interrupted=folder.status == "interrupted",
    )
