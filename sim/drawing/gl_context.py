"""An OpenGL context without a window, made through EGL."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from calvin_eval.errors import CalvinEvalError, RenderError
from calvin_eval.extras import require
from calvin_eval.sim.drawing import light
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.egl_devices import DEVICE_VARIABLE

if TYPE_CHECKING:
    import moderngl

WINDOW = (1024, 768)
"""Bullet's; rounding depends on where in it an image is drawn."""

_GL_TEXTURE_2D, _GL_DEPTH_COMPONENT, _GL_FLOAT = 0x0DE1, 0x1902, 0x1406
_GL_DEPTH_COMPONENT16, _GL_RGB10_A2, _GL_RGBA8 = 0x81A5, 0x8059, 0x8058
_EGL_DRAW, _EGL_READ = 0x3059, 0x305A
_GL_LOWER_LEFT, _GL_UPPER_LEFT, _GL_NEGATIVE_ONE_TO_ONE = 0x8CA1, 0x8CA2, 0x935E
_TEX_IMAGE = (ctypes.c_uint, *[ctypes.c_int] * 5, *[ctypes.c_uint] * 2, ctypes.c_void_p)
_CLIP_CONTROL = (ctypes.c_uint, ctypes.c_uint)
_REMEDY = (
    "render=gl needs a driver with EGL and OpenGL 4.5 (Debian and Ubuntu: apt-get install libegl1 "
    "libgl1 libgl1-mesa-dri). Or choose --render fast."
)


class GlContext:
    """An OpenGL context without a window, and what all worlds drawn in it share.

    Args:
        options: depth and colour bits of the pictures.
        device: which of the machine's EGL devices draws.

    Attributes:
        ctx: the context; every use of it is inside `with context.current()`.
        vendor, renderer, version: the driver's own strings.
        shadow, colour: the programs of the two passes.
        shadow_map: the framebuffer that casters are drawn into.

    Raises:
        MissingExtraError: the extra `gl` is not installed.
        RenderError: a driver is missing.
    """

    def __init__(self, options: DrawOptions, device: int = 0) -> None:
        require("gl", "render=gl")
        import moderngl

        try:
            # Names without a version belong to packages for developers.
            settings: dict[str, Any] = {
                "backend": "egl", "device_index": device,
                "libgl": "libGL.so.1", "libegl": "libEGL.so.1",
            }  # fmt: skip
            with _others_context_kept():
                self.ctx = moderngl.create_context(standalone=True, require=450, **settings)
        except Exception as error:
            raise RenderError(f"expected EGL with OpenGL 4.5 ({error}). {_REMEDY}") from error
        self.options = options
        self._lock = threading.RLock()
        self._gl_tex_image = _gl_function("glTexImage2D", _TEX_IMAGE)
        self._gl_clip_control = _gl_function("glClipControl", _CLIP_CONTROL)
        with self.current():
            self.shadow = self._program("shadow.vert", "shadow.frag")
            self.colour = self._program("colour.vert", "colour.frag")
            depth = self._depth_texture((light.SHADOW_SIZE,) * 2, bits=16)
            depth.compare_func = "<="
            depth.filter = (moderngl.LINEAR, moderngl.LINEAR)
            depth.repeat_x = depth.repeat_y = False
            self.shadow_texture = depth
            self.shadow_map = self.ctx.framebuffer(depth_attachment=depth)
            self._write_light()
            self._target: moderngl.Framebuffer | None = None
            self._make_target(WINDOW)
        self.renderer = str(self.ctx.info["GL_RENDERER"])
        self.vendor = str(self.ctx.info["GL_VENDOR"])
        self.version = str(self.ctx.info["GL_VERSION"])

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context this thread's own for a while; other threads wait."""
        with self._lock, _others_context_kept(), self.ctx:
            yield

    def _program(self, vertex: str, fragment: str) -> Any:
        folder = resources.files("calvin_eval.sim.drawing")
        read = [folder.joinpath(name).read_text("utf-8") for name in (vertex, fragment)]
        common = folder.joinpath("rotate.glsl").read_text("utf-8")
        return self.ctx.program(
            vertex_shader=read[0].replace("#include rotate", common), fragment_shader=read[1]
        )

    def _depth_texture(self, size: tuple[int, int], bits: int) -> moderngl.Texture:
        """A depth texture; moderngl's own has 24 bits, so 16 are asked of OpenGL itself."""
        texture = self.ctx.depth_texture(size)
        if bits == 16:
            texture.use(0)
            self._gl_tex_image(
                _GL_TEXTURE_2D, 0, _GL_DEPTH_COMPONENT16, *size, 0,
                _GL_DEPTH_COMPONENT, _GL_FLOAT, None,
            )  # fmt: skip
        return texture

    def _make_target(self, size: tuple[int, int]) -> moderngl.Framebuffer:
        """The picture that tiles are drawn into, grown if it is smaller than `size`."""
        if self._target is not None:
            have = self._target.size
            if have[0] >= size[0] and have[1] >= size[1]:
                return self._target
            size = (max(size[0], have[0]), max(size[1], have[1]))
            self._target.release()
        limit = int(self.ctx.info["GL_MAX_TEXTURE_SIZE"])
        if max(size) > limit:
            raise RenderError(f"expected images within {limit} pixels a side; found {size}")
        internal = _GL_RGB10_A2 if self.options.colour_bits == 10 else _GL_RGBA8
        colour = self.ctx.texture(size, 4, internal_format=internal)
        depth = self._depth_texture(size, self.options.depth_bits)
        self._target = self.ctx.framebuffer([colour], depth)
        return self._target

    def target(self, size: tuple[int, int]) -> moderngl.Framebuffer:
        """A picture of at least that many columns and rows."""
        return self._make_target(size)

    def rows_run_down(self, down: bool) -> None:
        """Whether rows of the target run from the top of the image, as in Bullet's window."""
        origin = _GL_UPPER_LEFT if down else _GL_LOWER_LEFT
        self._gl_clip_control(origin, _GL_NEGATIVE_ONE_TO_ONE)

    def _write_light(self) -> None:
        self.shadow["clip"].write(light.shadow_matrix().tobytes())
        self.colour["shadow_lookup"].write(light.shadow_lookup_matrix().tobytes())
        self.colour["light"].write(np.array(light.POSITION, dtype="f4").tobytes())
        self.colour["eye"].write(np.array(light.EYE, dtype="f4").tobytes())
        self.colour["image"].value = 0
        self.colour["shadow_map"].value = 1

    def close(self) -> None:
        """Free the context."""
        self.ctx.release()


@contextlib.contextmanager
def _others_context_kept() -> Iterator[None]:
    """Give this thread its EGL context back: Bullet's plugin makes its own current only once."""
    egl = ctypes.CDLL("libEGL.so.1")
    for name in ("eglGetCurrentDisplay", "eglGetCurrentContext", "eglGetCurrentSurface"):
        getattr(egl, name).restype = ctypes.c_void_p
    egl.eglMakeCurrent.argtypes = [ctypes.c_void_p] * 4
    display, context = egl.eglGetCurrentDisplay(), egl.eglGetCurrentContext()
    surfaces = [egl.eglGetCurrentSurface(which) for which in (_EGL_DRAW, _EGL_READ)]
    try:
        yield
    finally:
        if context:
            egl.eglMakeCurrent(display, *surfaces, context)
        elif display := egl.eglGetCurrentDisplay():
            egl.eglMakeCurrent(display, None, None, None)


def shared_context(options: DrawOptions) -> GlContext:
    """This process's context for such pictures; `EGL_VISIBLE_DEVICES` names the device.

    Raises:
        MissingExtraError, RenderError: see `GlContext`.
    """
    return _context(options, int(os.environ.get(DEVICE_VARIABLE) or 0), os.getpid())


def context_problem() -> str:
    """Why `gl` cannot draw here, or nothing."""
    try:
        shared_context(DrawOptions())
    except CalvinEvalError as error:
        return str(error)
    return ""


@lru_cache(maxsize=4)
def _context(options: DrawOptions, device: int, process: int) -> GlContext:
    return GlContext(options, device)


def _gl_function(name: str, arguments: Sequence[Any]) -> Any:
    """A function of OpenGL's that moderngl does not offer."""
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None, *arguments)(egl.eglGetProcAddress(name.encode()))
