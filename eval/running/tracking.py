"""A run's aggregates, report and videos for an experiment tracker: TensorBoard or wandb.

Both packages are optional, and imported only when they are written to. What is logged is computed
from the run folder; no simulator is needed.
"""

from __future__ import annotations

import importlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.extras import install_command, require
from calvin_eval.results.metrics import Count, Summary
from calvin_eval.results.report import render_report
from calvin_eval.results.report.text import cell, percent
from calvin_eval.results.report.view import PROFILE, ReportView, make_view
from calvin_eval.results.store import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

PARTIAL = "partial/"
"""Before the name of every metric of a run that is not complete."""
MOST_FRAMES, GIF_SIZE = 60, 320
"""Of an animation for TensorBoard, which plays no videos: frames, and pixels of a side."""
_BAR = 20  # characters


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a tracker gets.

    Attributes:
        name: of the run folder.
        config: the header without its list of chains; nested JSON values.
        scalars: by name, ready for either tracker.
        prefix: `partial/` for a run that is not complete, else empty.
        tasks: per task successes and attempts, the best first.
        report: Markdown.
        videos: name and file, those that show failures first.
    """

    name: str
    config: Mapping[str, Any]
    scalars: Mapping[str, float]
    prefix: str
    tasks: tuple[tuple[str, Count], ...]
    report: str
    videos: tuple[tuple[str, Path], ...]


def collect(folder: RunFolder, videos: int) -> Tracked:
    """Everything about a run, complete or not, that is logged, with at most so many videos.

    Raises:
        RunFolderError: the run is damaged.
    """
    view = make_view(folder)
    header = folder.document()
    planned = {"planned": view.summary.planned}
    header["chains"] = {**header["chains"], **planned}
    prefix = "" if view.summary.complete else PARTIAL
    tasks = tuple((row.name, row.count) for row in view.tasks)
    rates = {f"{prefix}task/{name}": count.rate for name, count in tasks}
    return Tracked(
        name=folder.path.name,
        config=header,
        scalars={
            **_headline(view.summary, prefix),
            **{name: rate for name, rate in rates.items() if rate is not None},
            **_progress(view.summary, folder),
        },
        prefix=prefix,
        tasks=tasks,
        report=render_report(view, ".md"),
        videos=tuple(_films(view, folder.path).items())[:videos],
    )


def _headline(summary: Summary, prefix: str) -> dict[str, float]:
    """Of an incomplete run the metrics of what there is; the prefix says so."""
    length, rates = summary.partial_average_length, summary.partial_success_rates
    spread = summary.partial_average_length_interval
    if length is None or spread is None or rates is None:
        return {}
    return {
        f"{prefix}average_length": length,
        f"{prefix}average_length_low": spread.low,
        f"{prefix}average_length_high": spread.high,
        **{f"{prefix}success_rate/{i}": rate for i, rate in rates.items()},
    }


def _progress(summary: Summary, folder: RunFolder) -> dict[str, float]:
    scalars: dict[str, float] = {
        "run/completeness": summary.completed / summary.planned if summary.planned else 0.0,
        "run/errors": summary.errors,
    }
    profile = folder.read_json(PROFILE) if (folder.path / PROFILE).exists() else None
    speed = profile.get("steps_per_second") if isinstance(profile, dict) else None
    if isinstance(speed, int | float):
        scalars["run/steps_per_second"] = speed
    return scalars


def _films(view: ReportView, root: Path) -> dict[str, Path]:
    """Names and files: one of each chain first, and of these the failures."""
    filmed = {row.chain for row in view.filmed}
    rows = [*view.filmed, *(row for row in view.chains if row.chain not in filmed)]
    best = [row.best_video for row in rows if row.best_video is not None]
    found: dict[str, Path] = {}
    for video in [*best, *(video for row in rows for video in row.videos)]:
        found.setdefault(PurePosixPath(video.path).stem, root / video.path)
    return found


def task_table(tasks: tuple[tuple[str, Count], ...]) -> str:
    """Success per task as a Markdown table with bars."""
    lines = ["| task | | success | of |", "| --- | --- | ---: | ---: |"]
    for name, count in tasks:
        rate = count.rate
        bar = "" if rate is None else "\N{FULL BLOCK}" * round(_BAR * rate)
        shown = "-" if rate is None else percent(rate)
        lines.append(f"| {cell(name)} | {bar} | {shown} | {count.total} |")
    return "\n".join(lines) + "\n"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Leaves of nested JSON by dotted name; lists and null as JSON text."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, bool | str):
            yield name, value
        elif isinstance(value, int | float):
            yield name, float(value)
        else:
            yield name, json.dumps(value, ensure_ascii=False)


def _package(name: str, extra: str) -> Any:
    require(extra, f"--to {extra}")
    try:
        return importlib.import_module(name)
    except ImportError as error:  # an older or broken one
        raise UsageError(
            f"--to {extra}: expected the package {extra}, found: {error}. "
            f"Install it again: {install_command(extra)}"
        ) from error


def to_tensorboard(tracked: Tracked, where: str, step: int | None) -> str:
    """Add an event file to the folder `where`.

    Returns the command that shows it. Runs of other steps may follow into the same folder.

    Raises:
        UsageError: TensorBoard is not installed, or the folder cannot be written.
        RunFolderError: a video is damaged; nothing is written then.
    """
    values = list(_tensorboard_values(tracked))  # all of them before anything is written
    events = _package("tensorboard.compat.proto.event_pb2", "tensorboard")
    writers = _package("tensorboard.summary.writer.event_file_writer", "tensorboard")
    try:
        writer = writers.EventFileWriter(where)
        for summary in values:
            writer.add_event(events.Event(wall_time=time.time(), step=step or 0, summary=summary))
        writer.close()
    except OSError as error:
        raise UsageError(
            f"--to tensorboard:{where}: expected a folder that can be written, found: {error}; "
            "name another"
        ) from error
    return f"tensorboard --logdir {where}"


def _tensorboard_values(tracked: Tracked) -> Iterator[Any]:
    """Summary messages: hyperparameters, scalars, texts and animations."""
    proto = _package("tensorboard.compat.proto.summary_pb2", "tensorboard")
    text = _package("tensorboard.plugins.text.summary_v2", "tensorboard")
    hparams = _package("tensorboard.plugins.hparams.summary_v2", "tensorboard")
    verdict = tracked.config.get("verdict")
    parameters = {**(tracked.config.get("config") or {}), "verdict": verdict}
    yield hparams.hparams_pb(dict(flatten(parameters)), trial_id=tracked.name)
    for name, number in tracked.scalars.items():
        yield proto.Summary(value=[proto.Summary.Value(tag=name, simple_value=number)])
    yield text.text_pb("report", tracked.report)
    yield text.text_pb(f"{tracked.prefix}tasks", task_table(tracked.tasks))
    config = json.dumps(tracked.config, indent=2, ensure_ascii=False)
    yield text.text_pb("config", "".join(f"    {line}\n" for line in config.splitlines()))
    for name, path in tracked.videos:
        gif, (width, height) = animation(path)
        image = proto.Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=gif
        )
        yield proto.Summary(value=[proto.Summary.Value(tag=f"video/{name}", image=image)])


def to_wandb(tracked: Tracked, where: str, step: int | None) -> str:
    """Make a run in the wandb project `where`, or ENTITY/PROJECT; returns where it is.

    Raises:
        UsageError: wandb is not installed, or refuses.
        RunFolderError: a video is damaged; nothing is sent then.
    """
    wandb = _package("wandb", "wandb")
    logged: dict[str, Any] = dict(tracked.scalars)
    entity, _, project = where.rpartition("/")
    try:
        for name, path in tracked.videos:
            logged[f"video/{name}"] = _wandb_video(wandb, path)
        rows = [[name, count.rate, count.success, count.total] for name, count in tracked.tasks]
        table = wandb.Table(columns=["task", "rate", "success", "total"], data=rows)
        bars = wandb.plot.bar(table, "task", "rate", title="Success per task")
        logged[f"{tracked.prefix}tasks"] = bars
        logged["report"] = wandb.Html(f"<pre>{escape(tracked.report)}</pre>", inject=False)
        with wandb.init(
            project=project, entity=entity or None, name=tracked.name, config=dict(tracked.config),
            job_type="eval", settings=wandb.Settings(console="off"),
        ) as run:  # fmt: skip
            run.log(logged, step=step)
            return str(run.url or run.dir)
    except wandb.Error as error:
        raise UsageError(
            f"--to wandb:{where}: expected wandb to take the run, found: {str(error).rstrip('.')}. "
            "Log in by `wandb login`, or set WANDB_MODE=offline."
        ) from error


def _wandb_video(wandb: Any, path: Path) -> Any:
    if path.suffix != ".webp":
        return wandb.Video(str(path), format=path.suffix[1:])
    gif, _ = animation(path)  # wandb takes no WebP
    return wandb.Video(io.BytesIO(gif), format="gif")


def animation(path: Path) -> tuple[bytes, tuple[int, int]]:
    """A video as an animated GIF of at most 60 frames and 320 pixels a side, in its own tempo.

    Returns its bytes, and width and height in pixels; raises RunFolderError for a damaged video.
    """
    try:
        frames, delays = _thinned(_frames(path))
    except Exception as error:  # each kind of file has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise RunFolderError(
            f"expected a video in {path}, found one that cannot be read: {reason.rstrip('.')}. "
            "Film it again with calvin-eval video."
        ) from error
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=delays, loop=0)
    return out.getvalue(), frames[0].size


def _thinned(frames: Iterable[tuple[Image, float]]) -> tuple[list[Image], list[int]]:
    """Every n-th frame, small, and how long each is shown in ms; n is a power of two."""
    kept: list[tuple[Image, float]] = []  # with the time at which it begins
    stride, now = 1, 0.0
    for index, (frame, duration) in enumerate(frames):
        if len(kept) == MOST_FRAMES and index % stride == 0:
            kept, stride = kept[::2], 2 * stride
        if index % stride == 0:
            frame.thumbnail((GIF_SIZE, GIF_SIZE))
            kept.append((frame, now))
        now += duration
    if not kept:
        raise ValueError("no frames")
    begins = [begin for _, begin in kept]
    delays = [round(end - begin) for begin, end in zip(begins, [*begins[1:], now], strict=True)]
    return [frame for frame, _ in kept], delays


def _frames(path: Path) -> Iterator[tuple[Image, float]]:
    """The frames of a video of any format, and how long each is shown in ms."""
    from PIL import Image, ImageSequence

    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as animated:
            for still in ImageSequence.Iterator(animated):
                frame = still.convert("RGB")  # which loads it: only then is its time known
                yield frame, float(still.info.get("duration") or 100)
        return
    import imageio.v2 as iio

    opened: Any = iio.get_reader(path, format="FFMPEG")
    with opened as reader:
        duration = 1000 / reader.get_meta_data()["fps"]
        for frame in reader:
            yield Image.fromarray(frame), duration
