"""Render backends: Bullet's EGL plugin, Bullet's TinyRenderer, or none.

Which renderer draws is a setting of the run, recorded with the driver's own strings; falling
back is never silent. Facts: protocol section 6 and the measurements behind it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError, UnknownNameError
from calvin_eval.sim.bullet import captured_output, pybullet
from calvin_eval.sim.cameras import Camera
from calvin_eval.sim.world import World

logger = logging.getLogger(__name__)

Backend: TypeAlias = Literal["none", "tiny", "egl", "auto"]
BACKENDS: tuple[Backend, ...] = ("none", "tiny", "egl", "auto")

EGL_REMEDY = (
    "Install a driver (Debian and Ubuntu, with or without a GPU: "
    "apt-get install libegl1 libgl1-mesa-dri libegl-mesa0 libgles2; in a container with an NVIDIA "
    "GPU also set NVIDIA_DRIVER_CAPABILITIES=all), or choose --render tiny."
)
_PROBE_SECONDS = 120
_UNSHADOWED_IMAGES = 2
_PROBE = """
import importlib.util, pybullet
client = pybullet.connect(pybullet.DIRECT)
spec = importlib.util.find_spec("eglRenderer")
name = (spec.origin, "_eglRendererPlugin") if spec else ("eglRendererPlugin",)
assert pybullet.loadPlugin(*name, physicsClientId=client) >= 0
image = pybullet.getCameraImage(8, 8, physicsClientId=client)[2]
print("EGL-PROBE-OK", len(image), flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class RenderInfo:
    """Who draws: the backend and the driver's own strings, for the run's header."""

    backend: str
    requested: str
    vendor: str = ""
    renderer: str = ""
    version: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EglProbe:
    """What a child process found when it tried EGL; `error` is empty where EGL works."""

    error: str
    vendor: str = ""
    renderer: str = ""
    version: str = ""


@lru_cache(maxsize=1)
def probe_egl() -> EglProbe:
    """Try EGL once in a child process: the plugin aborts its process where a driver is missing."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return EglProbe(error=f"EGL did not draw an image within {_PROBE_SECONDS} s")
    if "EGL-PROBE-OK" not in child.stdout:
        last = (child.stderr.strip() or child.stdout.strip() or "no output").splitlines()[-1]
        return EglProbe(error=f"the EGL test process ended with code {child.returncode} ({last})")
    return EglProbe(error="", **_driver_strings(child.stdout))


def _driver_strings(output: str) -> dict[str, str]:
    found = dict(re.findall(r"^GL_(VENDOR|RENDERER|VERSION)=(.*)$", output, flags=re.MULTILINE))
    return {key.lower(): value.strip() for key, value in found.items()}


def resolve_backend(requested: str) -> RenderInfo:
    """Decide who draws.

    Raises:
        UnknownNameError: no such backend.
        RenderError: `egl` was asked for and does not work here; the message has the remedy.
    """
    if requested not in BACKENDS:
        raise UnknownNameError("renderer", requested, BACKENDS)
    if requested in ("none", "tiny"):
        renderer = "TinyRenderer" if requested == "tiny" else ""
        return RenderInfo(backend=requested, requested=requested, renderer=renderer)
    probe = probe_egl()
    if not probe.error:
        return RenderInfo(
            backend="egl",
            requested=requested,
            vendor=probe.vendor,
            renderer=probe.renderer,
            version=probe.version,
        )
    if requested == "egl":
        raise RenderError(f"expected EGL to work; {probe.error}. {EGL_REMEDY}")
    logger.warning(
        "EGL does not work here (%s): drawing with TinyRenderer instead. Its images differ visibly "
        "from those that CALVIN policies were trained on (shadows, filtering), and scores of image "
        "policies fall. %s",
        probe.error,
        EGL_REMEDY,
    )
    return RenderInfo(backend="tiny", requested="auto", renderer="TinyRenderer")


class Renderer:
    """Draws one world.

    Args:
        info: the decision of `resolve_backend`.
        world: whose bodies are drawn.

    Raises:
        RenderError: a second EGL world in one process, which the plugin cannot draw.
    """

    _egl_world: World | None = None

    def __init__(self, info: RenderInfo, world: World) -> None:
        self.info = info
        self._world = world
        if info.backend == "egl":
            self._load_egl()

    def _load_egl(self) -> None:
        other = Renderer._egl_world
        if other is not None and other.bullet.id >= 0:
            raise RenderError(
                "expected at most one world drawn with EGL in a process (a limit of Bullet's "
                "plugin); this process has one already. Close it first, use another process, or "
                "give the second one render='tiny' or render='none'."
            )
        spec = importlib.util.find_spec("eglRenderer")
        name = (spec.origin, "_eglRendererPlugin") if spec else ("eglRendererPlugin",)
        bullet = self._world.bullet
        with captured_output():
            if bullet.loadPlugin(*name) < 0:
                raise RenderError(f"PyBullet could not load its EGL plugin. {EGL_REMEDY}")
            # The first two images after connecting lack their shadows under Mesa. Upstream shows
            # them to the policy; here every image is a function of the state alone.
            for _ in range(_UNSHADOWED_IMAGES):
                bullet.getCameraImage(8, 8, flags=pybullet.ER_NO_SEGMENTATION_MASK)
        Renderer._egl_world = self._world

    def draw(self, camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colour (H, W, 3) uint8 and depth (H, W) float32 in metres, seen from the camera."""
        if self.info.backend == "none":
            raise RenderError(
                "expected a renderer; this environment was made with render='none' and has no "
                "images. Make it with render='auto', or use get_state_obs()."
            )
        spec = camera.spec
        # Never pass `shadow`: it is sticky state that changes every later image.
        _, _, rgba, buffer, _ = self._world.bullet.getCameraImage(
            width=spec.width,
            height=spec.height,
            viewMatrix=camera.view(),
            projectionMatrix=camera.projection,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
        )
        rgb = np.reshape(rgba, (spec.height, spec.width, 4))[:, :, :3]
        depth = np.reshape(buffer, (spec.height, spec.width))
        return np.ascontiguousarray(rgb), camera.metres(depth)
