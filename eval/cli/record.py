"""`calvin-eval record`: demonstrations in the format of CALVIN's data set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import option, out_option
from calvin_eval.console.saying import say
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_yaml
from calvin_eval.protocol import BENCHMARK, OFFICIAL, REVISIONS, SCENES
from calvin_eval.rollouts.processes import usable_cores
from calvin_eval.sim.drawing.options import BACKENDS

if TYPE_CHECKING:
    from calvin_eval.rollouts.recording.session import SplitSummary
    from calvin_eval.rollouts.recording.spec import RecordSpec


@click.command(short_help="Record demonstrations in CALVIN's format.")
@out_option("FOLDER", "The data set; an unfinished one is completed.", required=True)
@option("--policy", metavar="POLICY", default="builtin:expert",
              help="The demonstrator, as --ckpt of a run.")  # fmt: skip
@option("--label", type=click.Choice(["expert"]),
              help="Let the policy act; store what the expert would do.")  # fmt: skip
@option("--beta", metavar="SHARE[:LAST]", default="0.5",
              help="With --label: share of the turns in which the expert acts.")  # fmt: skip
@option("--turn", type=click.IntRange(1), default=30, metavar="N",
              help="With --label: steps of a turn.")  # fmt: skip
@option("--takeover", type=click.IntRange(0), default=150, metavar="N",
              help="With --label: steps of a task after which the expert ends it.")  # fmt: skip
@option("--stage", "stages", metavar="KEY=VALUE", multiple=True,
              help="Action stage of the policy, as policy.actions of a run.")  # fmt: skip
@option("--option", "options", metavar="KEY=VALUE", multiple=True, help="Option of the policy.")
@option("--trust", is_flag=True, help="Allow a checkpoint that can run code.")
@option("--scenes", metavar="ABCD", default="D", help="For training.")
@option("--validation-scenes", metavar="ABCD", default="D")
@option("--episodes", type=click.IntRange(0), default=100, metavar="N",
              help="Chains to play for training.")  # fmt: skip
@option("--validation", type=click.IntRange(0), default=10, metavar="N",
              help="Chains to play for validation.")  # fmt: skip
@option("--length", type=click.IntRange(1, 10), default=BENCHMARK.chain_length, metavar="N",
              help="Tasks of a chain.")  # fmt: skip
@option("--tasks", metavar="NAMES", help="Tasks to draw from.", show_default="all 34")
@option("--sentences", type=click.Choice(["paraphrases", "pack", "both"]),
              default="paraphrases",
              help="For training; the pack's are those that an evaluation uses.")  # fmt: skip
@option("--steps", type=click.IntRange(1), default=OFFICIAL.steps, metavar="N",
              help="Budget of a task.")  # fmt: skip
@option("--noise", type=float, metavar="RATE", show_default="0.3; 0 with --label",
              help="Share of training tasks with a disturbance to recover from.")  # fmt: skip
@option("--noise-strength", type=float, default=0.8, metavar="UNITS",
              help="Largest component of a disturbance, 1 being the most.")  # fmt: skip
@option("--max-span", type=click.IntRange(1), default=64, metavar="N",
              help="Frames of a sentence, if the task can be seen in so few.")  # fmt: skip
@option("--min-span", type=click.IntRange(1), default=16, metavar="N",
              help="Shorter demonstrations get no sentence.")  # fmt: skip
@option("--assets", metavar="PACK", default="builtin")
@option("--revision", type=click.Choice(REVISIONS), default=OFFICIAL.revision,
              show_default=True)  # fmt: skip
@option("--render", type=click.Choice(BACKENDS),
              default="auto",
              help="Renderer. CALVIN's dataset used egl; fast reproduces it.")  # fmt: skip
@option("--no-images", is_flag=True, help="States and actions only, which is much faster.")
@option("--captions", is_flag=True,
        help="Sentences, questions and answers about frames too, from the true state.")  # fmt: skip
@option("--depth", is_flag=True, help="Depth images too.")
@option("--shift", metavar="AXIS=LEVEL", multiple=True,
              help="Change start, layout or images of training, such as camera=3.")  # fmt: skip
@option("--seed", type=click.IntRange(0), default=0, metavar="N")
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@option("--quiet", is_flag=True, help="No progress, only the result.")
def record(**options: Any) -> None:
    """Record demonstrations as a data set in CALVIN's on-disk format.

    Chains of tasks are drawn from start states that the benchmark does not have, and played by a
    demonstrator. The same options give the same files, with any number of processes. Run an
    interrupted command again to resume it.
    """
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from calvin_eval.rollouts.recording.session import record as record_dataset
    from calvin_eval.wrappers.loaders import require_packages
    from calvin_eval.wrappers.loaders.base import Source

    spec = _spec(options)
    require_packages(Source(ckpt=spec.policy, options=spec.options, trust=spec.trust))
    from calvin_eval.console.terminal import Terminal

    console = Terminal(file=sys.stderr)
    shown = Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=options["quiet"] or not console.is_terminal,
    )
    with shown:
        bar = shown.add_task("recording", total=sum(spec.episodes.values()))
        summaries = record_dataset(
            spec,
            workers=_workers(options["workers"]),
            watch=lambda plan, episode: shown.advance(bar),
        )
    for summary in summaries:
        say(_describe(summary))


def _spec(options: dict[str, Any]) -> RecordSpec:
    from calvin_eval.rollouts.recording.correction import Correction
    from calvin_eval.rollouts.recording.episode import LabelRules
    from calvin_eval.rollouts.recording.noise import Disturbance
    from calvin_eval.rollouts.recording.spec import RecordSpec

    correction = None
    if options["label"]:
        turns = {name: options[name] for name in ("turn", "takeover")}
        correction = Correction.parse(options["beta"], **turns)
    noise = options["noise"]
    if noise is None:
        noise = 0.0 if correction else Disturbance.rate
    return RecordSpec(
        out=options["out"],
        policy=options["policy"],
        options=dict(map(_pair, options["options"])),
        trust=options["trust"],
        assets=options["assets"],
        revision=options["revision"],
        render="none" if options["no_images"] else options["render"],
        depth=options["depth"],
        scenes={
            "training": _scenes(options["scenes"]),
            "validation": _scenes(options["validation_scenes"]),
        },
        episodes={"training": options["episodes"], "validation": options["validation"]},
        length=options["length"],
        tasks=_tasks(options["tasks"]),
        sentences=options["sentences"],
        steps=options["steps"],
        noise=Disturbance(rate=noise, strength=options["noise_strength"]),
        labels=LabelRules(longest=options["max_span"], shortest=options["min_span"]),
        captions=options["captions"],
        stages=dict(map(_pair, options["stages"])),
        correction=correction,
        shift=",".join(options["shift"]) or None,
        seed=options["seed"],
    )


def _scenes(text: str) -> tuple[str, ...]:
    scenes = tuple(dict.fromkeys(text.replace(",", "").upper()))
    for scene in scenes:
        if scene not in SCENES:
            raise UnknownNameError("scene", scene, SCENES)
    if not scenes:
        raise UsageError("expected at least one scene such as D or ABC, found none")
    return scenes


def _tasks(text: str | None) -> tuple[str, ...]:
    from calvin_eval.sim.symbolic import TASK_NAMES

    names = tuple(TASK_NAMES) if text is None else tuple(text.replace(",", " ").split())
    return tuple(dict.fromkeys(names))


def _pair(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise UsageError(f"--option: expected KEY=VALUE, found {text!r}")
    try:
        return key, parse_yaml(value)
    except DocumentError as error:
        raise UsageError(f"--option {key}: {error}") from error


def _workers(asked: int | None) -> int:
    return usable_cores() if asked is None else asked


def _describe(summary: SplitSummary) -> str:
    return (
        f"{summary.split}: {summary.episodes} episodes, {summary.frames} frames, "
        f"{summary.labels} demonstrations with a sentence, "
        f"{summary.solved} of {summary.subtasks} tasks solved"
    )
