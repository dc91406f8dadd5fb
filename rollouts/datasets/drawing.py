"""Do a data set's images come from the renderer that draws here?

The simulator is reset to stored states and draws them again. A reset restores poses, not speeds, so
images of moving things differ a little; most in the gripper camera, which lags one physics step
behind the hand. Measured on recordings with either asset pack, medians in dB for the cameras static
and gripper: the same renderer at least 46 and 26, the other one at most 20 and 21, another scene at
most 17 and 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import InvalidStateError
from calvin_eval.foreign.splits import BrokenFrameError, Split
from calvin_eval.protocol import SCENES
from calvin_eval.sim.drawing.fast import library_problem
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.render import RenderInfo, probe_egl, resolve_backend
from calvin_eval.sim.world import World

CAMERAS: Final = ("static", "gripper")
NAMES: Final[Mapping[str, str]] = {"egl": "EGL", "fast": "EGL", "tiny": "TinyRenderer"}
"""Whose images a renderer draws."""

SAME_DB: Final[Mapping[str, float]] = {"static": 33.0, "gripper": 23.5}
"""Median PSNR from which on a camera's images count as drawn by the same renderer."""


NEAR_DB: Final = 23.0
"""Of the static camera: from here on images show the same things, drawn in another way."""

_AHEAD_DB = 4.0


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB; 99 for equal images."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))


@dataclass(frozen=True, kw_only=True)
class RendererPsnr:
    """Median PSNR in dB by renderer and camera, for frames of one scene.

    Attributes:
        scene: that the data set says it shows.
        frames: that were drawn.
        decibels: by renderer (`egl` or `fast`, and `tiny`) and camera.
        likely: the scene that fits best, if it is not the one that the data set names.
    """

    scene: str
    frames: tuple[int, ...]
    decibels: Mapping[str, Mapping[str, float]]
    likely: str | None = None

    @property
    def renderer(self) -> str | None:
        """The renderer that draws such images here: `egl`, `fast` or `tiny`; None if none does."""
        for name, cameras in self.decibels.items():
            if cameras and all(cameras[camera] >= SAME_DB[camera] for camera in cameras):
                return name
        return None

    @property
    def nearest(self) -> str | None:
        """Whose images are clearly the most like those of the data set, if not the same."""
        fit = {name: cameras.get("static", 0.0) for name, cameras in self.decibels.items()}
        for name, decibels in fit.items():
            others = [value for other, value in fit.items() if other != name]
            if decibels >= NEAR_DB and decibels >= max(others, default=0.0) + _AHEAD_DB:
                return name
        return None


def renderers() -> list[RenderInfo]:
    """TinyRenderer, and EGL or else our own drawing of EGL's images."""
    tiny = resolve_backend("tiny")
    if not probe_egl().error:
        return [resolve_backend("egl"), tiny]
    return [tiny] if library_problem() else [resolve_backend("fast"), tiny]


def compare_images(
    split: Split, pack: AssetPack, count: int, scene: str | None = None
) -> list[RendererPsnr]:
    """Draw some frames of every scene of a split again.

    Args:
        split: the frames.
        pack: assets; they must be those that the data set was made with.
        count: how many frames per scene.
        scene: what the frames show, for a split that does not say so.

    Returns:
        A comparison for each scene; none if there are no images, or nobody knows the scene.
    """
    by_scene: dict[str, list[int]] = {}
    for index in split.frames:
        shown = scene or split.scene(index)
        if shown is not None:
            by_scene.setdefault(shown, []).append(index)
    found = []
    for shown, indices in by_scene.items():
        chosen = np.unique(np.linspace(0, len(indices) - 1, count).round().astype(int))
        frames = _stored(split, [indices[i] for i in chosen])
        if frames:
            found.append(_compare(pack, shown, frames))
    return found


def _stored(split: Split, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
    frames = {}
    names = [f"rgb_{camera}" for camera in CAMERAS]
    for index in indices:
        try:
            frames[index] = split.read(index, ("robot_obs", "scene_obs", *names))
        except BrokenFrameError:  # the other checks tell of it
            continue
    return frames


def _compare(pack: AssetPack, scene: str, frames: Mapping[int, Mapping[str, Any]]) -> RendererPsnr:
    decibels = {info.backend: _draw(pack, scene, info, frames) for info in renderers()}
    made = RendererPsnr(scene=scene, frames=tuple(frames), decibels=decibels)
    if made.renderer is not None:
        return made
    # The still camera sees the table as a whole: the right one is clearly ahead.
    fit: dict[str, float] = {
        other: max(_draw(pack, other, info, frames).get("static", 0.0) for info in renderers())
        for other in SCENES
    }
    best = max(fit, key=lambda name: fit[name])
    likely = best if best != scene and fit[best] > fit[scene] + 3 else None
    return RendererPsnr(scene=scene, frames=tuple(frames), decibels=decibels, likely=likely)


def _draw(
    pack: AssetPack, scene: str, info: RenderInfo, frames: Mapping[int, Mapping[str, Any]]
) -> dict[str, float]:
    """Median PSNR by camera."""
    found: dict[str, list[float]] = {camera: [] for camera in CAMERAS}
    with PlayTableEnv(World(pack, scene), render=info, cameras=CAMERAS) as env:
        for frame in frames.values():
            try:
                env.start(frame["robot_obs"], frame["scene_obs"])
            except InvalidStateError:
                continue
            drawn = env.observe(rgb=CAMERAS)["rgb_obs"]
            for camera in CAMERAS:
                stored = frame[f"rgb_{camera}"]
                if stored.shape == drawn[f"rgb_{camera}"].shape:
                    found[camera].append(psnr(stored, drawn[f"rgb_{camera}"]))
    return {camera: float(np.median(values)) for camera, values in found.items() if values}
