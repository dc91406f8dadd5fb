"""A robustness suite: a clean run and runs under shifts, one after another, in one folder."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.results.header import HEADER
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.page import write_page
from calvin_eval.results.robustness.stopping import Tight
from calvin_eval.results.robustness.suite import CLEAN, Suite, read_suite
from calvin_eval.rollouts.engine import Engine
from calvin_eval.running.obedience import ANOTHER, obedience
from calvin_eval.running.outcome import EXIT_DONE, EXIT_ERRORS, EXIT_INTERRUPTED
from calvin_eval.running.packages import require_installed
from calvin_eval.running.policy_in_use import PolicyInUse
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.running.recorder import Display
from calvin_eval.running.run import make_engine, run_plan
from calvin_eval.running.suite_looks import Gallery
from calvin_eval.shifts import AXES, Level, Shifts

_ROUNDS: Final[tuple[Level, ...]] = (3, 5, 1, 4, 2)
"""Levels in the order in which they are run: a suite that is broken off has points of each axis."""


@dataclass(frozen=True, kw_only=True)
class SuitePlan:
    """What a suite runs.

    Attributes:
        config: of the clean run; its `out` is the suite's folder.
        names: of the cells, in the order of axes and levels.
        width: see `Tight`.
        seed: of the shifts.
        films: how many chains are filmed clean and shifted, next to each other.
    """

    config: EvalConfig
    names: tuple[CellName, ...]
    width: float
    seed: int = 0
    films: int = 0

    def shifts(self, name: CellName) -> Shifts:
        """What a cell changes."""
        return Shifts(((name.axis, name.level),), self.seed)


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """A suite that was run, or as much of it as there was time for."""

    folder: Path
    suite: Suite
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 for a complete suite, 3 for one with errors, 130 for one that was stopped."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_DONE if self.suite.complete else EXIT_ERRORS


def choose_cells(axes: str | None, levels: str | None) -> tuple[CellName, ...]:
    """The cells of some axes and levels, in the order of the table of axes.

    Args:
        axes: names of axes, with commas; all if None.
        levels: numbers and names of probes, with commas; all of every axis if None. An axis
            leaves out the probes that it does not have.

    Raises:
        UnknownNameError: no such axis, or a level that none of the axes has.
        UsageError: nothing was chosen.
    """
    wanted = _words(axes)
    for name in wanted or ():
        if name not in AXES:
            raise UnknownNameError("axis of shifts", name, [*AXES])
    chosen = [name for name in AXES if wanted is None or name in wanted]
    asked, known = _words(levels), dict.fromkeys(str(v) for a in chosen for v in AXES[a].levels)
    for level in asked or ():
        if level not in known:
            raise UnknownNameError("level of these axes", level, [*known])
    names = tuple(
        CellName(axis=axis, level=level)
        for axis in chosen
        for level in AXES[axis].levels
        if asked is None or str(level) in asked
    )
    if not names:
        raise UsageError("expected axes and levels of which there is one at least, found none")
    return names


def _words(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [word.strip() for word in text.split(",") if word.strip()]


def run_suite(plan: SuitePlan, display: Display) -> SuiteRun:
    """Run what is not done yet, and measure all of it.

    Raises:
        CalvinEvalError: something that the user can fix; with `resume`, the suite goes on.
        KeyboardInterrupt: the second Ctrl-C; the finished chains are safe.
    """
    folder = _suite_folder(plan)
    require_installed(plan.config)
    with _Runner(plan, folder, display) as runner:
        runner.run(None)
        for name in runner.rest():
            runner.run(name)
        interrupted = runner.interrupted
    asked, assets = plan.shifts(ANOTHER), plan.config.sim.assets
    told = obedience(folder, ANOTHER.folder, asked, assets) if ANOTHER in plan.names else {}
    unasked = obedience(folder, CLEAN, asked, assets, told) if told else {}
    suite = read_suite(folder, plan.names, plan.width, told, unasked)
    suite.write(folder)
    gallery = Gallery(
        folder=folder, names=plan.names, seed=plan.seed, assets=plan.config.sim.assets,
        films=0 if interrupted else plan.films, note=display.note,
    )  # fmt: skip
    write_page(folder, suite, gallery.looks(suite))
    return SuiteRun(folder=folder, suite=suite, interrupted=interrupted)


def _suite_folder(plan: SuitePlan) -> Path:
    """The folder, which is there already if and only if the suite is to be gone on with."""
    assert plan.config.out is not None
    folder = Path(plan.config.out)
    there = (folder / CLEAN / HEADER).is_file()
    if plan.config.resume and not there:
        raise UsageError(f"expected a suite in {folder} to go on with, found none")
    if not plan.config.resume and folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"expected an empty or a new folder, found {folder} with something in it; name another "
            "by --out, or go on with a suite by --resume"
        )
    return folder


@dataclass
class _Runner:
    """Runs cells one after another with one policy and the same workers."""

    plan: SuitePlan
    folder: Path
    display: Display
    interrupted: bool = False
    _policy: PolicyInUse | None = None
    _engine: Engine | None = None
    _clean_seconds: float | None = None

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as closing:  # each is closed even if the other cannot be
            for held in (self._policy, self._engine):
                if held is not None:
                    closing.callback(held.close)

    def run(self, name: CellName | None) -> None:
        """Run a cell, or the clean run."""
        if self.interrupted:
            return
        config = self._config(name)
        inputs = gather_inputs(config)
        self._policy = self._policy or open_policy(config)
        plan = make_plan(inputs, self._policy)
        self._engine = self._engine or make_engine(plan)
        chains = [chain.id for chain in inputs.chains]
        stop = Tight(chains, 0 if name is None else self.plan.width)
        self.display.note(f"{name or 'clean run'}: {len(chains)} chains")
        began = time.monotonic()
        run = run_plan(plan, self._engine, self.display, stop)
        if name is None and not config.resume:
            self._clean_seconds = time.monotonic() - began
        self.interrupted = run.interrupted or self._engine.interrupted

    def rest(self) -> list[CellName]:
        """The cells in the order in which they are run: by rounds of levels, the cheap axes first.

        What a cell costs is what the clean run did, and more where more is drawn.
        """
        dear = {"physical": 0, "language": 1, "visual": 2, "sensor": 3}
        order = sorted(
            self.plan.names,
            key=lambda n: (
                _ROUNDS.index(n.level) if n.graded else len(_ROUNDS),
                dear[AXES[n.axis].kind],
            ),
        )
        if self._clean_seconds is not None:
            minutes = len(order) * self._clean_seconds / 60
            self.display.note(
                f"{len(order)} cells follow, about {minutes:.0f} minutes if each takes as long as "
                "the clean run, less where intervals are tight; --resume goes on after an "
                "interruption"
            )
        return order

    def _config(self, name: CellName | None) -> EvalConfig:
        config = self.plan.config
        out = self.folder / (CLEAN if name is None else name.folder)
        shift = None if name is None else str(self.plan.shifts(name))
        return replace(
            config,
            out=str(out),
            resume=(out / HEADER).is_file(),
            protocol=replace(config.protocol, shift=shift),
        )
