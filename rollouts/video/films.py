"""Videos of chains, made by simulating them again from their stored actions.

A run never draws for a video: whatever is filmed is simulated once more, in another process. So
filming cannot change a result, can wait until the outcome is known, and needs no model. Every
subtask's final state is compared with the record: a repetition that departs is no film of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.protocol import Protocol
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.recorded import chain_ref
from calvin_eval.rollouts.replay import Step, replay_record
from calvin_eval.rollouts.video.files import FORMATS, VideoFile
from calvin_eval.rollouts.video.frames import Caption, FrameComposer, Verdict, reduced
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.cameras import resolve_cameras
from calvin_eval.sim.packs import CameraSpec, load_pack
from calvin_eval.sim.render import RenderInfo, resolve_backend

FOLDER = "videos"
HOLD_SECONDS = 0.7
"""How long the end of a subtask stays to be read."""

Which: TypeAlias = Literal["all", "failures", "successes", "none"] | int
Per: TypeAlias = Literal["chain", "subtask"]

_HEIGHTS = (32, 2160)
_FINER = {"egl": 2, "fast": 2, "gl": 2}
"""Where size costs little, images are drawn larger and scaled down: smooth edges."""


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """What is filmed, and how.

    Attributes:
        which: all chains; failures (an error is one here), successes, none; or the first N of
            the run. With `per="subtask"`, failures and successes are subtasks.
        per: one file per chain, or per subtask.
        format: mp4, gif or webp.
        cameras: names of the pack's, or cameras of one's own; side by side from the left.
        height: of the images in pixels; each camera keeps its proportions.
        fps: frames per second. A frame is a thirtieth of a simulated second.

    Raises:
        UsageError: a value that cannot be meant.
    """

    which: Which = "all"
    per: Per = "chain"
    format: str = "mp4"
    cameras: tuple[str | CameraSpec, ...] = ("static", "gripper")
    height: int = 400
    fps: int = 30

    def __post_init__(self) -> None:
        parse_which(self.which)
        if self.per not in get_args(Per):
            raise UnknownNameError("unit of videos", self.per, get_args(Per))
        if self.format not in FORMATS:
            raise UnknownNameError("video format", self.format, FORMATS)
        if not self.cameras:
            raise UsageError("expected one camera or more for videos, found none")
        low, high = _HEIGHTS
        if not low <= self.height <= high:
            raise UsageError(
                f"expected a video height from {low} to {high} pixels, found {self.height}"
            )
        if not 1 <= self.fps <= 240:
            raise UsageError(f"expected 1 to 240 frames per second, found {self.fps}")


def parse_which(value: object) -> Which:
    """`all`, `failures`, `successes`, `none` or a number, as a user wrote it.

    Raises:
        UsageError: something else.
    """
    text = "none" if value is None else str(value)
    words: tuple[Any, ...] = get_args(get_args(Which)[0])
    if text in words:
        return text  # type: ignore[return-value]
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise UnknownNameError("choice of videos", text, [*words, "a number from 1 up"])


def wanted(spec: VideoSpec, record: ChainRecord, planned: Sequence[int]) -> tuple[int, ...]:
    """Positions of the subtasks of a finished chain that are to be filmed.

    Args:
        spec: says which.
        record: of the chain. The subtask that an error broke off counts as one that failed.
        planned: ids of the run's chains in their order, for `which=N`.
    """
    ends = [subtask.success for subtask in record.subtasks]
    if record.status == "error":
        ends.append(False)
    everything = tuple(range(len(ends)))
    if spec.which == "none":
        return ()
    if isinstance(spec.which, int):
        return everything if record.chain in planned[: spec.which] else ()
    if spec.which == "all":
        return everything
    good = spec.which == "successes"
    if spec.per == "chain":
        return everything if (record.length == len(record.tasks)) == good else ()
    return tuple(position for position in everything if ends[position] == good)


def choose_renderer(simulator: SimulatorSpec) -> RenderInfo:
    """The renderer of the videos: the run's own, or any that works where the run drew nothing."""
    if simulator.render.backend != "none":
        return simulator.render
    return resolve_backend("auto", own=simulator.backend == "calvin_eval")


def finer(render: RenderInfo) -> int:
    """How many times larger than shown an image is drawn; `reduced` undoes it."""
    return _FINER.get(render.backend, 1)


class Filmer:
    """Films chains of one run, one after another, in one simulator.

    Args:
        spec: how.
        folder: the run.
        simulator: what the run used; cameras and size are replaced by those of `spec`.
        out: where the files go; the run's `videos/` if None.

    Raises:
        AssetError, RenderError, UnknownNameError: the simulator or its cameras cannot be made.
    """

    def __init__(
        self, spec: VideoSpec, folder: RunFolder, simulator: SimulatorSpec, out: Path | None = None
    ) -> None:
        self._spec = spec
        self._run = folder
        header = folder.header()
        self._chains, self._rules = chain_ref(header), header.protocol
        self._out = out or folder.path / FOLDER
        self._finer = finer(simulator.render)
        self._pack = load_pack(simulator.assets, verify=False)
        named = resolve_cameras(self._pack, spec.cameras)
        widths = [max(2, round(spec.height * camera.width / camera.height)) for camera in named]
        self._frames = FrameComposer([(width, spec.height) for width in widths])
        cameras = tuple(
            replace(camera, width=width * self._finer, height=spec.height * self._finer)
            for camera, width in zip(named, widths, strict=True)
        )
        self._names = [camera.name for camera in cameras]
        self._env = replace(simulator, cameras=cameras).build()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def film(
        self,
        record: ChainRecord,
        positions: Collection[int],
        on_frame: Callable[[], None] = lambda: None,
    ) -> list[Path]:
        """Film some subtasks of a chain; nothing is left behind of a film that fails.

        Args:
            record: of the chain.
            positions: of the subtasks to be shown; the others are simulated only.
            on_frame: called after every state that was drawn.

        Returns:
            The files, in order.

        Raises:
            ReplayError: see `replay_record`; earlier subtasks may have their files.
            OSError: the disk or the encoder refuses.
        """
        actions = self._run.read_actions(record.chain)
        files: list[Path] = []
        if not (shown := [position for position in positions if actions.get(position)]):
            return files
        chain = self._chains.chain(record, self._pack)
        with ExitStack() as films:
            film: VideoFile | None = None
            for step in replay_record(self._env, chain, record, actions, self._rules):
                if step.position not in shown:
                    continue
                if film is None:
                    film = films.enter_context(self._open(record.chain, step.position))
                self._show(film, record, step)
                on_frame()
                if step.last and step.position == shown[-1]:
                    return [*files, film.publish()]
                if step.last and self._spec.per == "subtask":
                    files.append(film.publish())
                    film = None
        raise AssertionError("unreachable: every subtask has an end")

    def _open(self, chain: int, position: int) -> VideoFile:
        part = "" if self._spec.per == "chain" else f"_sub{position}"
        name = f"chain{chain:04d}{part}.{self._spec.format}"
        self._out.mkdir(parents=True, exist_ok=True)
        return VideoFile(self._out / name, self._spec.fps)

    def _show(self, film: VideoFile, record: ChainRecord, step: Step) -> None:
        """Add the frame of a state; the last one's a second time, with the verdict."""
        seen = step.observe(rgb=self._names)["rgb_obs"]
        images = [reduced(seen[f"rgb_{name}"], self._finer) for name in self._names]
        caption = caption_of(record, step.position, step_budget(self._rules))
        film.add(self._frames.compose(images, caption, step.step))
        if step.last:
            held = self._frames.compose(
                images, caption, step.step, verdict_of(record, step.position)
            )
            film.add(held, round(HOLD_SECONDS * self._spec.fps))


def caption_of(record: ChainRecord, position: int, budget: int | None) -> Caption:
    """What is written under a subtask of a chain; a budget of None is not shown."""
    recorded = position < len(record.subtasks)  # a subtask that was broken off has no record
    task = record.tasks[position]
    return Caption(
        chain=record.chain,
        position=position,
        subtasks=len(record.tasks),
        task=task,
        instruction=record.subtasks[position].instruction if recorded else task,
        budget=budget,
    )


def step_budget(rules: Protocol) -> int | None:
    """Steps that a subtask may take; None where decisions are counted."""
    return rules.steps if rules.budget == "env_steps" else None


def verdict_of(record: ChainRecord, position: int) -> Verdict:
    """Returns how a subtask ended, by its record."""
    if position == len(record.subtasks):
        return "error"
    return "success" if record.subtasks[position].success else "failed"
