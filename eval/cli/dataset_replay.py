"""`calvin-eval dataset replay`: are the labels of a data set true, and do its actions repeat?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import json_option, keys_option, option
from calvin_eval.console.progress import progress
from calvin_eval.console.saying import say
from calvin_eval.protocol import OFFICIAL, REVISIONS

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.rollouts.datasets.audit import AuditReport

EXIT_TRUE, EXIT_WRONG, EXIT_UNCHECKED = 0, 1, 3

_SHOWN = 10  # labels that are named
_MOST = 5  # tasks that were done instead of one
_TABLED = ("robot_position", "robot_orientation", "block_position", "block_orientation")


@click.command("replay", short_help="Hold the labels of a data set against the simulator.")
@click.argument("folder", type=click.Path(path_type=Path))
@option("--assets", metavar="PACK", show_default="what record.json says, else builtin",
        help="That it was made with; official for CALVIN's own data.")  # fmt: skip
@option("--revision", type=click.Choice(REVISIONS),
        show_default=f"what record.json says, else {OFFICIAL.revision}",
        help="Of calvin_env.")  # fmt: skip
@option("--scene", metavar="A-D", help="What the frames show, if the folder does not say.")
@option("--from", "start", type=click.Choice(["segment", "episode"]), default="segment",
        help="Where the world is reset: every annotation's start, or its episode's.")  # fmt: skip
@option("--actions", "form", type=click.Choice(["rel_actions", "actions"]),
        default="rel_actions", help="Which of the recorded actions are played.")  # fmt: skip
@option("--segments", "most", type=click.IntRange(1), metavar="N", show_default="all",
        help="Annotations per split, spread evenly.")  # fmt: skip
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@keys_option
@json_option
@click.pass_context
def replay_command(
    ctx: click.Context, /, folder: Path, workers: int | None, as_json: bool, **options: Any
) -> None:
    """Play the annotated frames in FOLDER, a data set or one split, back in the simulator.

    For every annotation the oracle tells which of the 34 tasks were really done: between the
    recorded states, and when the recorded actions are played back. Drift is the distance between
    recorded and simulated states after every step. Exits with 1 if a label is wrong, with 3 if
    none is wrong but some could not be checked.
    """
    from calvin_eval.rollouts.datasets.audit import AuditSpec, audit_dataset
    from calvin_eval.running.capacity import worker_room

    spec = AuditSpec(**options)
    with progress("playing back") as watch:
        report = audit_dataset(
            folder, spec, workers=worker_room() if workers is None else workers, watch=watch
        )
    if as_json:
        say(json.dumps(report.to_json(), indent=2))
    else:
        from calvin_eval.console.terminal import Terminal

        _print(report, Terminal(file=sys.stdout, highlight=False, soft_wrap=True))
    counts = report.counts
    unchecked = EXIT_UNCHECKED if counts["unchecked"] else EXIT_TRUE
    ctx.exit(EXIT_WRONG if counts["wrong"] else unchecked)


def _print(report: AuditReport, console: Console) -> None:
    total = sum(report.counts.values())
    scenes = ", ".join(sorted({stretch.scene for _, stretch, _ in report.stretches}))
    console.print(
        f"{total} labels, scene {scenes}, {report.spec.form} from the start of every "
        f"{report.spec.start}; {report.assets} assets, revision {report.revision}",
        markup=False,
    )
    console.print(_tasks_table(report))
    for line in (*_instead(report), *_wrong(report)):
        console.print(line, markup=False)
    console.print(_drift_table(report))
    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts.items() if number)
    console.print(f"{counts} of {total} labels", markup=False)


def _tasks_table(report: AuditReport) -> Any:
    from rich import box
    from rich.table import Table

    from calvin_eval.rollouts.datasets.playback import VERDICTS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for verdict in VERDICTS:
        table.add_column(verdict, justify="right")
    for task, counts in report.by_task.items():
        table.add_row(_plain(task), *(str(counts[v]) for v in VERDICTS))
    return table


def _instead(report: AuditReport) -> Iterator[str]:
    """What was done where a label is wrong, a line for every task that is named wrongly."""
    done: dict[str, Counter[str]] = {}
    for _, _, label in report.labels():
        if label.verdict == "wrong":
            done.setdefault(label.annotation.task, Counter()).update(label.done or ("nothing",))
    for task, others in sorted(done.items()):
        found = ", ".join(f"{name} {number}" for name, number in others.most_common(_MOST))
        yield f"instead of {task}: {found}"


def _wrong(report: AuditReport) -> Iterator[str]:
    """The first labels that are not confirmed, a line each."""
    bad = [found for found in report.labels() if found[2].verdict != "confirmed"]
    for split, _, label in bad[:_SHOWN]:
        said = label.annotation
        what = label.reason or f"done: {', '.join(label.done) or 'nothing'}"
        yield (
            f"{label.verdict}: {split}, frames {said.first}-{said.last}, {said.task} "
            f"({said.text!r}); {what}"
        )
    if len(bad) > _SHOWN:
        yield f"and {len(bad) - _SHOWN} more; --json shows all"


def _drift_table(report: AuditReport) -> Any:
    from rich import box
    from rich.table import Table

    from calvin_eval.rollouts.datasets.drift import MEASURES

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="drift, median and largest")
    table.title_justify = "left"
    for name in ("step", "of", *(f"{n.replace('_', ' ')}, {MEASURES[n]}" for n in _TABLED)):
        table.add_column(name, justify="right")
    for row in report.drift:
        values = (f"{_length(row[n]['median'])} {_length(row[n]['max'])}" for n in _TABLED)
        table.add_row(str(row["step"]), str(row["series"]), *values)
    return table


def _length(value: float) -> str:
    return f"{value:.4f}" if value else "0"


def _plain(text: str) -> Any:
    """A stranger's text in a table, which is no markup."""
    from rich.text import Text

    return Text(text)
