"""`calvin-eval video`: films of a run that is over, from the actions that it stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import option, out_option
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from calvin_eval.results.schema import ChainRecord
    from calvin_eval.results.store import RunFolder
    from calvin_eval.rollouts.video.films import VideoSpec, Which
    from calvin_eval.rollouts.worker import SimulatorSpec

EXIT_DONE, EXIT_LOST, EXIT_INTERRUPTED = 0, 3, 130


@click.command(short_help="Film chains of a run from its stored actions.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option("--chains", metavar="IDS", help="Only these chains, for example 3,17,40-49.")
@option("--all", "which", flag_value="all", help="Every chain of the run.")
@option(
    "--failures", "which", flag_value="failures",
    help="Chains that were not completed; with --per subtask, subtasks that failed.",
)  # fmt: skip
@option("--successes", "which", flag_value="successes", help="The opposite.")
@option("--first", type=click.IntRange(1), metavar="N", help="The first N chains of the run.")
@option(
    "--per", type=click.Choice(["chain", "subtask"]), default="chain",
    help="What one file shows.",
)  # fmt: skip
@option(
    "--format",
    "kind",
    type=click.Choice(["mp4", "gif", "webp"]),
    default="mp4",
)
@option(
    "--camera", "cameras", multiple=True, metavar="NAME",
    help="static, gripper, or X,Y,Z:X,Y,Z for one that stands at the first point and looks at the "
    "second, in metres; may be repeated.", show_default="static, gripper")  # fmt: skip
@option("--size", type=int, default=400, metavar="PIXELS", help="Height of images.")
@option("--fps", type=int, default=30, metavar="N", help="30 is real time.")
@option(
    "--render",
    metavar="BACKEND",
    help="auto, fast, gl, egl or tiny.",
    show_default="as the run, else auto",
)
@option("--assets", metavar="PACK", help="builtin, official or a path.", show_default="as the run")
@out_option("FOLDER", "Where the videos go.", show_default="RUN/videos")
@option("--workers", type=click.IntRange(1), default=1, metavar="N", help="Processes.")
@click.pass_context
def video(ctx: click.Context, /, run: Path, chains: str | None, **options: Any) -> None:
    """Film chains of the run folder RUN, by simulating them again from their stored actions.

    Needs no model, and shows what happened: each subtask's end is compared with the record. Any
    size, camera and renderer may be asked for, whatever the policy looked through.
    """
    from calvin_eval.results.store import RunFolder
    from calvin_eval.rollouts.video.films import VideoSpec

    folder = RunFolder.open(run)
    spec = VideoSpec(
        which=_which(options["which"], options["first"], chains),
        per=options["per"],
        format=options["kind"],
        cameras=tuple(map(_camera, options["cameras"])) or ("static", "gripper"),
        height=options["size"],
        fps=options["fps"],
    )
    records = _records(folder, chains)
    simulator = simulator_of(folder, options["assets"], options["render"])
    ctx.exit(_film(folder, records, spec, simulator, options))


def _which(word: str | None, first: int | None, chains: str | None) -> Which:
    from calvin_eval.errors import UsageError
    from calvin_eval.rollouts.video.films import parse_which

    if word is not None and first is not None:
        raise UsageError(f"expected one choice of chains, found --{word} and --first {first}")
    if word is None and first is None and chains is None:
        raise UsageError(
            "expected a choice of chains: --chains 3,17, --failures, --successes, --first N, "
            "or --all (a frame takes about a fifth of a second)"
        )
    return parse_which(first or word or "all")


def _records(folder: RunFolder, chains: str | None) -> list[ChainRecord]:
    from calvin_eval.errors import UsageError
    from calvin_eval.sim.selection import parse_selection

    records = {record.chain: record for record in folder.records()}
    if chains is None:
        return list(records.values())
    ids = parse_selection(chains, max(records, default=-1) + 1)
    if missing := [str(i) for i in ids if i not in records]:
        raise UsageError(
            f"expected chains that {folder.path} has a record of; it has none of "
            f"{', '.join(missing)}"
        )
    return [records[i] for i in ids]


def _camera(text: str) -> Any:
    """A camera's name, or a view from one point to another."""
    from calvin_eval.errors import UsageError
    from calvin_eval.sim.packs import CameraSpec

    if ":" not in text:
        return text
    try:
        points = [tuple(map(float, point.split(","))) for point in text.split(":")]
    except ValueError:
        points = []
    if len(points) != 2 or any(len(point) != 3 for point in points):
        raise UsageError(
            f"expected a camera such as static or 1.5,-1.5,1.2:0,0,0.5; found {text!r}"
        )
    return CameraSpec(
        name=text, width=400, height=400, fov=40, aspect=1, near=0.01, far=10,
        look_from=points[0], look_at=points[1], up=(0.0, 0.0, 1.0),
    )  # fmt: skip


def simulator_of(folder: RunFolder, assets: str | None, render: str | None) -> SimulatorSpec:
    """The simulator that a run used.

    Args:
        folder: the run.
        assets: where its assets are now; as the run says, if None.
        render: who is to draw; as in the run, or whoever can, if None.

    Raises:
        AssetError: the assets are gone, or are others than the run's.
    """
    from dataclasses import replace

    from calvin_eval.rollouts.recorded import find_pack, simulator_spec
    from calvin_eval.sim.drawing.options import DrawOptions
    from calvin_eval.sim.render import resolve_backend

    header = folder.header()
    pack = find_pack(header, assets or header.config.sim.assets)
    spec = simulator_spec(header, pack)
    drew = header.renderer
    options = None if render else DrawOptions.from_json(drew.options or {})
    backend = render or ("auto" if drew.backend == "none" else drew.backend)
    own = spec.backend == "calvin_eval"
    return replace(spec, render=resolve_backend(backend, options, own=own))


def _film(
    folder: RunFolder,
    records: list[ChainRecord],
    spec: VideoSpec,
    simulator: SimulatorSpec,
    options: Any,
) -> int:
    """Film, with a progress bar; prints the files and returns the exit code."""
    from tqdm import tqdm

    from calvin_eval.rollouts.video.pool import VideoPool

    out, workers = options["out"], options["workers"]
    with tqdm(unit=" frames", file=sys.stderr, desc="filming") as bar:
        pool = VideoPool(spec, folder, simulator, _say, workers=workers, out=out)
        try:
            asked = [record for record in records if pool.add(record)]
            pool.close(show=lambda drawn, steps: _show(bar, drawn, steps))
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        finally:
            pool.close(wait=False)
    for path in sorted(pool.files):
        say(path)
    if not asked:
        say("no chain matches; nothing was filmed", err=True)
    return EXIT_LOST if pool.lost else EXIT_DONE


def _show(bar: Any, drawn: int, steps: int) -> None:
    bar.total, bar.n = steps, min(drawn, steps)
    bar.refresh()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
