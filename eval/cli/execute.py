"""What `calvin-eval run` does with its configurations: run them, print the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from calvin_eval.cli.gate import show_decision
from calvin_eval.config.schema import EvalConfig
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from calvin_eval.running.launch import Launch
    from calvin_eval.running.outcome import FailedRun, Run


def execute(
    configs: Sequence[EvalConfig], launch: Launch | None, *, quiet: bool, diagnosed: bool = False
) -> int:
    """Run, print what came out, and return the exit code.

    Args:
        configs: one or more.
        launch: the processes that divide each run among themselves; None for this one alone.
        quiet: whether to show no progress.
        diagnosed: whether to find why failures failed, when a run is over.
    """
    from calvin_eval.console.display import make_display
    from calvin_eval.running.outcome import Run
    from calvin_eval.running.ranks import run_ranked
    from calvin_eval.running.run import run_evaluation, run_evaluations

    # Of several processes in one terminal only the first shows how it is doing.
    display = make_display(sys.stderr, quiet=quiet or (launch is not None and launch.rank > 0))
    if launch is not None:
        runs = run_ranked(configs, launch, display)
        if launch.rank > 0:
            return _code_of_a_part(runs)
    elif len(configs) == 1:
        runs = [run_evaluation(configs[0], display)]
    else:
        runs = run_evaluations(configs, display)
    _show(runs, several=len(configs) > 1)
    _show_seeds(configs, runs)
    if diagnosed:
        _diagnose(configs, runs)
    for run in runs:
        if isinstance(run, Run) and run.interrupted:
            say(f"interrupted; complete it by {_completion(run, launch)}", err=True)
    return max(run.exit_code for run in runs)


def _diagnose(configs: Sequence[EvalConfig], runs: Sequence[Run | FailedRun]) -> None:
    """Diagnose every run that came to its end; one that cannot be is none the worse for it."""
    from calvin_eval.cli.diagnose import show_diagnosis
    from calvin_eval.cli.verify import progress
    from calvin_eval.errors import CalvinEvalError
    from calvin_eval.rollouts.verify.inputs import Sources
    from calvin_eval.running.diagnosing import diagnose_path
    from calvin_eval.running.outcome import Run

    for config, run in zip(configs, runs, strict=False):  # an interruption leaves out the rest
        if not isinstance(run, Run) or run.interrupted:
            continue
        try:
            found = diagnose_path(run.folder, Sources(assets=config.sim.assets), bar=progress)
        except CalvinEvalError as error:
            say(f"{run.folder.name} was not diagnosed: {error}", err=True)
        else:
            show_diagnosis(found, run.folder)


def _show(runs: Sequence[Run | FailedRun], *, several: bool) -> None:
    from calvin_eval.console.display import print_comparison, print_run
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.running.outcome import Run

    console = Terminal(file=sys.stdout)
    finished = [run for run in runs if isinstance(run, Run)]
    for run in finished:
        if run.decision is not None:
            show_decision(run.decision, run.folder.name)
        print_run(run, console)
    if several:
        print_comparison(runs, console)


def _show_seeds(configs: Sequence[EvalConfig], runs: Sequence[Run | FailedRun]) -> None:
    """Mean and spread of every policy that was run with several seeds, printed and written."""
    from calvin_eval.console.tables import print_spread
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.results.seeds import spread_of_seeds
    from calvin_eval.running.outcome import Run
    from calvin_eval.running.seeds import write_spread

    by_policy: dict[str, dict[int, Run | FailedRun]] = {}
    for config, run in zip(configs, runs, strict=False):  # an interruption leaves out the rest
        by_policy.setdefault(config.ckpt, {})[config.seed] = run
    for ckpt, found in by_policy.items():
        if len(found) < 2:
            continue
        done = {seed: run.summary if isinstance(run, Run) else None for seed, run in found.items()}
        spread = spread_of_seeds(done)
        folders = [run.folder.parent for run in found.values() if isinstance(run, Run)]
        print_spread(ckpt, spread, Terminal(file=sys.stdout))
        if folders:
            say(f"Seeds: {write_spread(folders[0], spread)}")


def _completion(run: Run, launch: Launch | None) -> str:
    if launch is None:
        return f"--out {run.folder} --resume"
    return f"starting all processes again with --out {run.folder.parents[1]} --resume"


def _code_of_a_part(runs: Sequence[Run | FailedRun]) -> int:
    """Zero for shards that are over, with errors or without: launchers end all for another code.

    The first process has the whole run's.
    """
    from calvin_eval.running.outcome import FailedRun

    codes = [run.exit_code for run in runs if isinstance(run, FailedRun) or run.interrupted]
    return max(codes, default=0)
