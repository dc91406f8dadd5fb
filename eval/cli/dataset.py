"""`calvin-eval dataset`: check, replay, show and export data sets in CALVIN's format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.dataset_replay import replay_command
from calvin_eval.cli.options import json_option, keys_option, option, out_option
from calvin_eval.console.progress import progress
from calvin_eval.console.saying import say
from calvin_eval.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.rollouts.datasets.report import DatasetReport

_FOLDER = click.Path(path_type=Path)


@click.group(short_help="Check, replay, show and export data sets.")
def dataset() -> None:
    """Check, replay, show and export data sets in CALVIN's format."""


@dataset.command("check")
@click.argument("folder", type=_FOLDER)
@option("--assets", metavar="PACK", default="builtin",
              help="Drawn for comparison; official for CALVIN's own data.")  # fmt: skip
@option("--scene", metavar="A-D", help="What the frames show, if the folder does not say.")
@option("--frames", type=click.IntRange(1), default=5000, metavar="N",
              help="To look into, per split.")  # fmt: skip
@option("--images", type=click.IntRange(0), default=8, metavar="N",
              help="Frames to draw again, per scene.")  # fmt: skip
@keys_option
@json_option
@click.pass_context
def check_command(ctx: click.Context, /, folder: Path, as_json: bool, **options: Any) -> None:
    """Look for what is missing, broken or out of range in FOLDER, a data set or one split of it.

    Stored states are drawn again by the renderers that work here, which tells whether the data
    set's images come from EGL or TinyRenderer. Exits with 1 if there is an error.
    """
    from calvin_eval.rollouts.datasets.report import check_dataset

    with progress("looking into frames") as watch:
        report = check_dataset(folder, watch=watch, **options)
    if as_json:
        say(json.dumps(report.to_json(), indent=2))
    else:
        from calvin_eval.console.terminal import Terminal

        _print(report, Terminal(file=sys.stdout, highlight=False, soft_wrap=True))
    ctx.exit(0 if report.sound else 1)


@dataset.command("show")
@click.argument("folder", type=_FOLDER)
@out_option("FOLDER", "Where the files go.", required=True)
@option("--task", metavar="NAME", help="Only demonstrations of this task.")
@option("--rows", type=click.IntRange(1), default=12, metavar="N",
              help="Demonstrations on the contact sheet, per split.")  # fmt: skip
@option("--videos", type=click.IntRange(0), default=4, metavar="N",
              help="Videos, per split.")  # fmt: skip
@keys_option
def show_command(
    folder: Path, out: Path, task: str | None, rows: int, videos: int, keys: dict[str, str]
) -> None:
    """Make a contact sheet and videos of the demonstrations in FOLDER."""
    from calvin_eval.rollouts.datasets.opening import open_dataset
    from calvin_eval.rollouts.datasets.show import choose, contact_sheet, write_videos

    for split in open_dataset(folder, keys):
        sheet = out / f"{split.name}.png"
        say(contact_sheet(split, choose(split, rows, task), sheet))
        for path in write_videos(split, choose(split, videos, task), out) if videos else ():
            say(path)


@dataset.command("export-lerobot")
@click.argument("folder", type=_FOLDER)
@out_option("FOLDER", "A new folder.", required=True)
@option("--repo-id", default="local/calvin", metavar="NAME")
@option("--split", metavar="NAME", help="training or validation.", show_default="both")
@option("--videos", is_flag=True, help="Smaller, and images not the same to the bit.")
def export_command(folder: Path, out: Path, repo_id: str, split: str | None, videos: bool) -> None:
    """Write the demonstrations in FOLDER as a LeRobot data set: an episode for each sentence."""
    from calvin_eval.foreign.splits import open_splits
    from calvin_eval.rollouts.datasets.lerobot import export_lerobot

    splits = [one for one in open_splits(folder) if split in (None, one.name)]
    if not splits:
        raise UsageError(f"expected a split {split!r} in {folder}, found none")
    with progress("exporting") as watch:
        count = export_lerobot(splits, out, repo_id=repo_id, videos=videos, watch=watch)
    say(f"{count} episodes in {out}")


dataset.add_command(replay_command)


def _print(report: DatasetReport, console: Console) -> None:
    from calvin_eval.rollouts.datasets.drawing import NAMES
    from calvin_eval.rollouts.datasets.report import explain

    for facts in report.splits:
        console.print(
            f"{facts.split}: {facts.frames} frames ({facts.read} looked into), {facts.episodes} "
            f"episodes, {facts.annotations} annotations of {facts.tasks} tasks, scene "
            f"{', '.join(facts.scenes) or 'unknown'}",
            markup=False,
        )
    for split, one in report.images:
        console.print(f"{split}, scene {one.scene}: {explain(one)}", markup=False)
        for name, cameras in one.decibels.items():
            values = ", ".join(f"{camera} {value:.1f} dB" for camera, value in cameras.items())
            console.print(f"  {NAMES[name]}: {values}", markup=False)
    for info in report.here:
        console.print(f"here: {NAMES[info.backend]} ({info.renderer})", markup=False)
    for fault in report.faults:
        colour = "red" if fault.level == "error" else "yellow"
        console.print(f"[{colour}]{fault.level}[/]: ", end="")
        frames = ", ".join(map(str, fault.frames))
        more = f", {fault.count} in all" if fault.count > len(fault.frames) else ""
        where = f" (frames {frames}{more})" if frames else ""
        console.print(f"{fault.split}: {fault.check}: {fault.message}{where}", markup=False)
    console.print("sound" if report.sound else "not sound")
