"""`calvin-eval track`: a run for TensorBoard or wandb."""

from __future__ import annotations

from pathlib import Path

import click

from calvin_eval.cli.options import option
from calvin_eval.console.saying import say

TRACKERS = ("tensorboard", "wandb")


@click.command(short_help="Log a run to TensorBoard or wandb.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option(
    "--to", "target", metavar="WHERE", required=True,
    help="tensorboard:DIR, wandb:PROJECT or wandb:ENTITY/PROJECT.",
)  # fmt: skip
@option(
    "--step", type=click.IntRange(0), metavar="N",
    help="Training step of the checkpoint, for curves over several runs.",
)  # fmt: skip
@option(
    "--videos", type=click.IntRange(0), default=12, metavar="N",
    help="At most so many, failures first.",
)  # fmt: skip
def track(run: Path, target: str, step: int | None, videos: int) -> None:
    """Log metrics, report and videos of the run folder RUN to an experiment tracker.

    Needs no simulator, but `pip install "calvin-eval[tensorboard]"` or `[wandb]`. While chains are
    missing or broken, metrics have names that begin with partial/.
    """
    kind, where = parse_target(target)
    from calvin_eval.results.store import RunFolder
    from calvin_eval.running.tracking import collect, to_tensorboard, to_wandb

    tracked = collect(RunFolder.open(run), videos)
    write = to_tensorboard if kind == "tensorboard" else to_wandb
    seen = write(tracked, where, step)
    say(f"Tracked {len(tracked.scalars)} metrics, {len(tracked.videos)} videos: {seen}")


def parse_target(text: str) -> tuple[str, str]:
    """The parts of `tensorboard:DIR` or `wandb:PROJECT`; raises UsageError for anything else.

    >>> parse_target("tensorboard:logs/a:b")
    ('tensorboard', 'logs/a:b')
    """
    from calvin_eval.errors import UnknownNameError, UsageError

    kind, _, where = text.partition(":")
    if kind not in TRACKERS:
        raise UnknownNameError("tracker", kind, TRACKERS)
    if not where:
        raise UsageError(
            f"--to: expected tensorboard:DIR or wandb:PROJECT, found {text!r}; say where to"
        )
    return kind, where
