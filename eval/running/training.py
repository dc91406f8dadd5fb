"""A training from the command line: what is shown while it runs, and at its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from calvin_eval.config.training import TrainConfig
from calvin_eval.extras import require

if TYPE_CHECKING:
    from calvin_eval.results.metrics import Summary
    from calvin_eval.vla.training.progress import Facts, TrainingOutcome
    from calvin_eval.vla.training.saving import Position

SHOWN_VALUES = {
    "train_loss": "loss",
    "val_loss": "validation loss",
    "lr": "lr",
    "samples_per_second": "samples/s",
}
"""Logged values that the terminal shows, and their labels there."""

EVALUATIONS = "evaluations"


def run_training(config: TrainConfig, *, quiet: bool = False) -> TrainingOutcome:
    """Train, or go on with a training.

    Args:
        config: see `compose_training`.
        quiet: show nothing on the way.

    Raises:
        CalvinEvalError: something that the caller can fix.
    """
    require("vla", "calvin-eval train")
    from calvin_eval.vla.training.loop import train

    silent = quiet or os.environ.get("RANK", "0") != "0"  # of several processes one tells
    with Shown(config.project, quiet=silent) as shown:
        shown.idle(config.idle)
        return train(
            config.project, config.out, shown, resume=config.resume, overwrite=config.overwrite
        )


class Shown:
    """Progress on stderr, and evaluations: see `calvin_eval.vla.training.progress.TrainingWatcher`.

    Args:
        project: the configuration.
        quiet: show nothing.
    """

    def __init__(self, project: Mapping[str, Any], *, quiet: bool) -> None:
        self._overrides = [str(override) for override in project["evaluate"]["overrides"]]
        self._quiet, self._total = quiet, 0
        from calvin_eval.console.terminal import Terminal

        self._console = Terminal(file=sys.stderr, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._live,
        )

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def idle(self, keys: Mapping[str, str]) -> None:
        """List the keys of the project file that do nothing."""
        if keys:
            self._say("has no effect (as in the original):")
        for key, reason in keys.items():
            self._say(f"  {key}: {reason}")

    def reading(self, split: str, done: int, total: int) -> None:
        """Show how many frames are in memory."""
        title = f"reading {total} frames, {split}"
        if done == 1 and not self._live:
            self._say(title)
        self._show(title, total, done)

    def begin(self, facts: Facts) -> None:
        """Show what is trained, and on what."""
        self._total = facts.total
        self._console.print(_parameter_table(facts))
        precision = "float32" if facts.precision == "no" else facts.precision
        self._say(
            f"{facts.samples} samples, steps {facts.start} to {facts.total}, {facts.device}, "
            f"{precision}, {facts.processes} process{'es' if facts.processes > 1 else ''}"
        )

    def stepped(self, position: Position, values: Mapping[str, float]) -> None:
        """Show progress, and the newest values."""
        text = ", ".join(
            f"{label} {values[name]:.4g}" for name, label in SHOWN_VALUES.items() if name in values
        )
        self._show("training", self._total, position.step, text)
        if text and not self._live:
            self._say(f"step {position.step} of {self._total}: {text}")

    def saved(self, checkpoint: Path) -> None:
        """Say where."""
        self._say(f"saved {checkpoint}")

    def evaluate(self, folder: Path, position: Position) -> dict[str, float]:
        """Run the benchmark on the newest checkpoint; its run folder lies in EVALUATIONS."""
        from calvin_eval.api import evaluate

        self._progress.stop()  # a terminal has room for one display
        try:
            run = evaluate(
                str(folder),
                overrides=self._overrides,
                out=str(folder / EVALUATIONS / f"step={position.step}"),
                overwrite=True,
                quiet=self._quiet,
            )
        finally:
            self._progress.start()
        scores = scores_of(run.summary)
        text = ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
        self._say(f"evaluated step {position.step}: {text or 'no complete chain'}")
        return {f"eval_{name}": value for name, value in scores.items()}

    def _show(self, title: str, total: int, done: int, text: str = "") -> None:
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=total, text="")
        bar = self._bars[title]
        if text:
            self._progress.update(bar, text=text)
        self._progress.update(bar, completed=done)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def scores_of(summary: Summary) -> dict[str, float]:
    """A run's scores by name: `average_length`, and `success_1`, ... up to the longest chain."""
    scores = {}
    if summary.partial_average_length is not None:
        scores["average_length"] = float(summary.partial_average_length)
    for length, rate in (summary.partial_success_rates or {}).items():
        scores[f"success_{length}"] = float(rate)
    return scores


def _parameter_table(facts: Facts) -> Table:
    table = Table("part", box=box.SIMPLE_HEAD)
    table.add_column("parameters", justify="right")
    table.add_column("trained", justify="right")
    for row in facts.parameters:
        table.add_row(row.part, f"{row.total:,}", f"{row.trained:,}")
    return table


def print_training(outcome: TrainingOutcome, console: Console) -> None:
    """The end of a training: where it stands, its last values, and what to do next."""
    position = outcome.position
    how = "stopped" if outcome.interrupted else "trained"
    console.print(
        f"{how} at step {position.step} after {position.samples:,} samples, "
        f"{outcome.samples_per_second:.1f} samples/s, {outcome.seconds / 60:.1f} min"
    )
    table = Table("value", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("", justify="right")
    for name, value in sorted(outcome.values.items()):
        table.add_row(name, f"{value:.5g}")
    console.print(table)
    console.print(f"Checkpoint: {outcome.checkpoint}", soft_wrap=True, highlight=False)
    next_step = (
        f"Go on: calvin-eval train out={outcome.folder} resume=true"
        if outcome.interrupted
        else f"Evaluate: calvin-eval --ckpt {outcome.folder} --split D"
    )
    console.print(next_step, soft_wrap=True, highlight=False)
