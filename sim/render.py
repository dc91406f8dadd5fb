"""Who draws: our own rasteriser, OpenGL, Bullet's EGL plugin, Bullet's TinyRenderer, or nobody.

Which renderer draws is a setting of the run, recorded with its options and the driver's own
strings; falling back is never silent. Rules: docs/protocol.md#cameras.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval import plugins
from calvin_eval.errors import RenderError, UsageError
from calvin_eval.sim.bullet import captured_output, pybullet
from calvin_eval.sim.cameras import Camera
from calvin_eval.sim.drawing.fast import FastRenderer, library_problem
from calvin_eval.sim.drawing.light import Lamp
from calvin_eval.sim.drawing.options import BACKENDS, Backend, DrawOptions, check_backend
from calvin_eval.sim.drawing.scene import SceneState
from calvin_eval.sim.shifts.looks import Look, check_drawable
from calvin_eval.sim.shifts.sensors import Sensor
from calvin_eval.sim.shifts.tape import Tape
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.world import World

logger = logging.getLogger(__name__)

OWN: tuple[Backend, ...] = ("fast", "gl")
"""Those that draw the scene without Bullet, and have `DrawOptions`."""
BULLETS: tuple[Backend, ...] = ("egl", "tiny")
"""Those that are part of Bullet."""

Image: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.float32]]

EGL_REMEDY = (
    "Install a driver (Debian and Ubuntu, with or without a GPU: "
    "apt-get install libegl1 libgl1-mesa-dri libegl-mesa0 libgles2; in a container with an NVIDIA "
    "GPU also set NVIDIA_DRIVER_CAPABILITIES=all), or choose --render fast or tiny."
)
FIDELITY = "PSNR to the images of Bullet's EGL plugin on Mesa: static 60.7 dB, gripper 71.7 dB"
"""Of `fast`: pooled over 500 states of scenes A to D; docs/rendering.md says how it is measured."""

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
    """Who draws: the backend, its options and the driver's own strings, for the run's header.

    Attributes:
        options: of `fast` and `gl`; None for the others, which have none.
    """

    backend: str
    requested: str
    vendor: str = ""
    renderer: str = ""
    version: str = ""
    options: DrawOptions | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form; `options` and `fidelity` (how near to EGL's images) of our own alone."""
        document = {key: value for key, value in asdict(self).items() if value is not None}
        if self.backend == "fast" and self.options == DrawOptions():
            document["fidelity"] = FIDELITY
        return document


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


def resolve_backend(
    requested: str, options: DrawOptions | None = None, *, own: bool = True
) -> RenderInfo:
    """Decide who draws: with `auto` our `fast` where it is built, else EGL, else TinyRenderer.

    Args:
        requested: one of `BACKENDS`, or of a package's in `calvin_eval.renderers`.
        options: of our own renderers; the defaults if absent.
        own: whether they may draw; upstream's simulator can be drawn by Bullet only.

    Raises:
        UnknownNameError: no such backend.
        UsageError: options for a renderer without any, or one of ours where only Bullet draws.
        PluginError: two packages have a renderer of that name.
        RenderError: the backend that was asked for does not work here; the message has the remedy.
    """
    check_backend(requested)
    if requested not in ("auto", *BULLETS, "none") and not own:
        raise UsageError(
            f"expected --render egl or tiny: upstream's simulator is drawn by Bullet alone; "
            f"found {requested}"
        )
    options = options or DrawOptions()
    info = _resolve(requested, options, own)
    if info.options is None and info.backend != "none" and options != DrawOptions():
        raise UsageError(
            f"expected the default drawing options (sim.draw): they are those of the renderers "
            f"fast and gl, and {info.backend} draws; choose --render fast"
        )
    return info


def _resolve(requested: str, options: DrawOptions, own: bool) -> RenderInfo:
    if requested == "none":
        return RenderInfo(backend="none", requested="none")
    if requested == "tiny":
        return RenderInfo(backend="tiny", requested="tiny", renderer="TinyRenderer")
    if requested == "gl":
        return _gl_info(options)
    if requested not in BACKENDS:
        package, version = plugins.version("renderers", requested)
        return RenderInfo(
            backend=requested,
            requested=requested,
            vendor=package,
            renderer=requested,
            version=version,
        )
    if own and requested in ("auto", "fast"):
        problem = library_problem()
        if not problem:
            return RenderInfo(
                backend="fast",
                requested=requested,
                vendor="calvin-eval",
                renderer="fast",
                version=metadata.version("calvin-eval"),
                options=options,
            )
        if requested == "fast":
            raise RenderError(problem)
        logger.warning("%s Now drawing with Bullet's own renderers.", problem)
    return _bullets_own(requested)


def _gl_info(options: DrawOptions) -> RenderInfo:
    from calvin_eval.sim.drawing.gl_context import shared_context

    context = shared_context(options)
    return RenderInfo(
        backend="gl",
        requested="gl",
        vendor=context.vendor,
        renderer=context.renderer,
        version=context.version,
        options=options,
    )


def _bullets_own(requested: str) -> RenderInfo:
    """EGL where it works; else TinyRenderer, said aloud, unless EGL was asked for."""
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


class _Drawer(Protocol):
    def draw(self, state: SceneState, cameras: Sequence[Any]) -> list[Image]: ...


class WorldDrawer(Protocol):
    """Draws one world: what an entry point in `calvin_eval.renderers` returns for a `World`."""

    def draw(self, cameras: Sequence[Camera]) -> list[Image]:
        """Per camera colour (H, W, 3) uint8 and depth (H, W) float32 in metres."""
        ...


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
        self._variant: Variant | None = None
        self._tape: Tape | None = None
        self._drawn: tuple[Look, _Drawer] | None = None
        self._plugin: WorldDrawer | None = None
        world.drawn_by_bullet = info.backend not in (*OWN, "none")
        if info.backend == "egl":
            self._load_egl()

    def _load_egl(self) -> None:
        other = Renderer._egl_world
        if other is not None and other.bullet.id >= 0:
            raise RenderError(
                "expected at most one world drawn with EGL in a process (a limit of Bullet's "
                "plugin); this process has one already. Close it first, use another process, or "
                "give the second one render='fast', render='tiny' or render='none'."
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

    def vary(self, variant: Variant | None) -> None:
        """Draw another variant from now on: the world may look different after its reset."""
        if variant is not None:
            check_drawable(variant.shifts, self.info.backend)
        self._variant = variant
        self._drawn = None
        self._tape = Tape.of(Sensor.of(variant))

    def follow(self, cameras: Sequence[Camera]) -> None:
        """Take note of a new state of the world, for images that come late.

        Args:
            cameras: that may be drawn.
        """
        if self._tape is not None and self.info.backend in OWN:
            look, _ = self.made()
            views = {camera.spec.name: camera.view() for camera in cameras}
            self._tape.keep(look.scene.state(self._world), views)

    def draw(self, cameras: Sequence[Camera]) -> list[Image]:
        """Per camera colour (H, W, 3) uint8 and depth (H, W) float32 in metres."""
        if self.info.backend == "none":
            raise RenderError(
                "expected a renderer; this environment was made with render='none' and has no "
                "images. Make it with render='auto', or use get_state_obs()."
            )
        if self.info.backend not in BACKENDS:
            self._plugin = self._plugin or plugins.load("renderers", self.info.backend)(self._world)
            return self._plugin.draw(cameras)
        if self.info.backend in BULLETS:
            return [self._draw_with_bullet(camera) for camera in cameras]
        look, drawer = self.made()
        tape = self._tape
        state = look.scene.state(self._world) if tape is None else tape.state
        views = [
            (
                camera.view() if tape is None else tape.views[camera.spec.name],
                *(camera.projection, camera.spec.width, camera.spec.height),
            )
            for camera in cameras
        ]
        images = drawer.draw(look.tinted(state), views)
        return [
            (
                rgb if tape is None else tape.spoiled(rgb, camera.spec.name),
                camera.metres(depth),
            )
            for camera, (rgb, depth) in zip(cameras, images, strict=True)
        ]

    def made(self) -> tuple[Look, _Drawer]:
        """What one of our own renderers draws with, made at the first call after a change."""
        self._drawn = self._drawn or self._make_drawer()
        return self._drawn

    def _make_drawer(self) -> tuple[Look, _Drawer]:
        """Read the world, which is built by now; it looks the same until `vary`."""
        look = Look.of(self._variant, self._world)
        if self.info.backend == "fast":
            drawer = FastRenderer(look.scene, self.info.options)
            if look.lamp != Lamp():
                drawer.set_light(look.lamp)
            return look, drawer
        from calvin_eval.sim.drawing.gl import GlRenderer

        return look, GlRenderer(look.scene, self.info.options)

    def _draw_with_bullet(self, camera: Camera) -> Image:
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
