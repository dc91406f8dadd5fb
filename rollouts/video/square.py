"""Square pictures of the static camera, of whatever size, for what is looked at side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from calvin_eval.rollouts.video.films import finer
from calvin_eval.rollouts.video.frames import Frame, reduced
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.cameras import resolve_cameras
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.render import resolve_backend

CAMERA: Final = "static"


class Seen(Protocol):
    """What can be looked at: a simulator, or a step of a replay."""

    def observe(self, *, rgb: tuple[str, ...]) -> Mapping[str, Any]:
        """The observation with the named images."""


def square(simulator: SimulatorSpec, side: int) -> SimulatorSpec:
    """The same simulator, drawing its static camera for pictures of so many pixels each way.

    What draws is chosen anew, since two of them may be in one process, which some cannot do.

    Raises:
        UnknownNameError: the pack has no static camera.
    """
    render = resolve_backend("auto", own=simulator.backend == "calvin_eval")
    (camera,) = resolve_cameras(load_pack(simulator.assets, verify=False), (CAMERA,))
    pixels = side * finer(render)
    return replace(
        simulator, render=render, cameras=(replace(camera, width=pixels, height=pixels),)
    )


def look(seen: Seen, side: int) -> Frame:
    """A picture (side, side, 3) uint8 of the simulator as it is now, made by `square`."""
    image: Frame = seen.observe(rgb=(CAMERA,))["rgb_obs"][f"rgb_{CAMERA}"]
    return reduced(image, image.shape[0] // side)
