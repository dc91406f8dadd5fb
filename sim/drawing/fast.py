"""The renderer `fast`: Bullet's EGL images from a software rasteriser of our own.

The drawing itself is compiled (`_raster.cpp`); this module finds the library and hands it arrays.
It needs no display, no OpenGL and no GPU, keeps no global state, and releases the GIL: worlds of
several threads are drawn at the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError
from calvin_eval.sim.drawing.options import DrawOptions

if TYPE_CHECKING:
    from calvin_eval.sim.drawing.light import Lamp
    from calvin_eval.sim.drawing.meshes import Mesh
    from calvin_eval.sim.drawing.scene import Scene, SceneState

__all__ = ["FastRenderer", "library_problem"]

CameraView: TypeAlias = tuple[Sequence[float], Sequence[float], int, int]
Image: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.float32]]

_VERSION = 2
_LIBRARY = Path(__file__).with_name("_raster.so")
REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir calvin-eval"
"""Takes the wheel where there is one for this system, and else builds the library."""
_REMEDY = (
    f"Run `{REINSTALL}` (in a checkout: `make install`), where there is no wheel for this system "
    "after installing a C++ compiler (Debian and Ubuntu: apt-get install g++); or choose --render "
    "egl or tiny."
)
_UNSHADOWED_IMAGES = 2
_MESSAGE_SIZE = 200


class _Camera(ctypes.Structure):
    _fields_ = (
        ("view", ctypes.c_void_p),
        ("projection", ctypes.c_void_p),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("rgb", ctypes.c_void_p),
        ("depth", ctypes.c_void_p),
        ("shadows", ctypes.c_int),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The compiled rasteriser.

    Raises:
        RenderError: it was not built, or from other sources than these.
    """
    if not _LIBRARY.is_file():
        raise RenderError(
            "the renderer 'fast' is not built: calvin-eval was installed from its sources, and no "
            f"C++ compiler was found then. {_REMEDY}"
        )
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        version = library.raster_version()
    except (OSError, AttributeError) as error:
        raise RenderError(f"the renderer 'fast' cannot be loaded: {error}. {_REMEDY}") from None
    if version != _VERSION:
        raise RenderError(
            f"expected version {_VERSION} of the compiled renderer 'fast'; found {version}, built "
            f"from other sources. {_REMEDY}"
        )
    library.raster_new.restype = ctypes.c_void_p
    return library


def library_problem() -> str:
    """Why `fast` cannot draw here, or nothing."""
    try:
        _library()
    except RenderError as error:
        return str(error)
    return ""


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.__array_interface__["data"][0])


def _matrix(values: Sequence[float]) -> NDArray[np.float32]:
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.shape != (16,) or not np.isfinite(matrix).all():
        raise RenderError(f"expected a camera's matrix of 16 finite numbers; found {values!r}")
    return matrix


class FastRenderer:
    """Draws one scene with the software rasteriser.

    Geometry is taken over once. What has not changed since the last call (a camera, a shape's
    pose, the shadows) is not computed again; the images are the same to the last bit.

    Args:
        scene: the geometry.
        options: what may be chosen; every value but the default changes pixels.
        instruction_set: 0 for the best that the processor has, 1 for the portable code, 2 for
            x86-64-v3. The images do not depend on it.

    Raises:
        RenderError: the compiled library is missing, or the scene is not one that it can draw.
    """

    def __init__(
        self, scene: Scene, options: DrawOptions | None = None, *, instruction_set: int = 0
    ) -> None:
        self.options = options or DrawOptions()
        self._library = _library()
        self._message = ctypes.create_string_buffer(_MESSAGE_SIZE)
        self._shapes = len(scene.shapes)
        self._unshadowed = _UNSHADOWED_IMAGES if self.options.first_frames_unshadowed else 0
        self._handle = ctypes.c_void_p(
            self._library.raster_new(
                self.options.depth_bits, self.options.colour_bits, instruction_set
            )
        )
        if not self._handle:
            raise RenderError("the renderer 'fast' found no memory")
        for mesh in scene.meshes:
            self._add_mesh(mesh)
        for texture in scene.textures:
            pixels = np.ascontiguousarray(texture, dtype=np.uint8)
            self._call("raster_add_texture", _address(pixels), pixels.shape[1], pixels.shape[0])
        for shape in scene.shapes:
            self._call("raster_add_shape", shape.mesh, shape.texture)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.raster_free(self._handle)

    @property
    def instruction_set(self) -> int:
        """Which compiled code draws: 1 portable, 2 for x86-64-v3."""
        return int(self._library.raster_set(self._handle))

    def set_light(self, lamp: Lamp) -> None:
        """Light everything by another lamp from now on.

        Raises:
            RenderError: numbers that are not finite, or a library built from older sources.
        """
        if not hasattr(self._library, "raster_set_light"):
            raise RenderError(
                "the compiled renderer 'fast' is of older sources, which know one light only. "
                f"{_REMEDY}"
            )
        triples = [np.asarray(v, np.float32) for v in (lamp.position, lamp.colour, lamp.background)]
        numbers = np.concatenate([*triples, [lamp.ambient, lamp.shade]])
        if not np.isfinite(numbers).all():
            raise RenderError(f"expected a lamp of finite numbers; found {lamp}")
        position, colour, background = map(_address, triples)
        ambient, shade = ctypes.c_float(lamp.ambient), ctypes.c_float(lamp.shade)
        self._call("raster_set_light", position, colour, ambient, shade, background)

    def draw(self, state: SceneState, cameras: Sequence[CameraView]) -> list[Image]:
        """Draw a state from several cameras, with one shadow map.

        Args:
            state: poses and colours.
            cameras: per image the view and projection matrices (16 numbers each, in OpenGL's
                column order), width and height in pixels.

        Returns:
            Per camera the colours, (H, W, 3) uint8 with the upper row first, and the depth buffer,
            (H, W) float32 in 0..1.

        Raises:
            RenderError: numbers that are not finite, or of the wrong count or size.
        """
        poses = self._array("poses", state.poses, 7)
        colours = self._array("colours", state.colours, 4)
        requests = (_Camera * len(cameras))()
        matrices, images = [], []
        for request, (view, projection, width, height) in zip(requests, cameras, strict=True):
            if min(width, height) < 1:
                raise RenderError(f"expected an image of 1 x 1 or more; found {width} x {height}")
            pair = _matrix(view), _matrix(projection)
            matrices.append(pair)  # alive until the call returns
            rgb = np.empty((height, width, 3), np.uint8)
            depth = np.empty((height, width), np.float32)
            request.view, request.projection = (_address(matrix) for matrix in pair)
            request.width, request.height = width, height
            request.rgb, request.depth = _address(rgb), _address(depth)
            request.shadows = self._unshadowed <= 0
            self._unshadowed -= 1
            images.append((rgb, depth))
        self._call("raster_draw", _address(poses), _address(colours), requests, len(cameras))
        return images

    def _array(self, name: str, values: NDArray[Any], columns: int) -> NDArray[np.float32]:
        array = np.ascontiguousarray(values, dtype=np.float32)
        if array.shape != (self._shapes, columns) or not np.isfinite(array).all():
            raise RenderError(
                f"expected {self._shapes} x {columns} finite numbers as {name}; "
                f"found shape {array.shape}"
            )
        return array

    def _add_mesh(self, mesh: Mesh) -> None:
        positions = np.ascontiguousarray(mesh.positions, dtype=np.float32)
        normals = np.ascontiguousarray(mesh.normals, dtype=np.float32)
        uvs = np.ascontiguousarray(mesh.uvs, dtype=np.float32)
        triangles = np.ascontiguousarray(mesh.triangles, dtype=np.int32)
        corners = len(positions)
        if (
            positions.shape != (corners, 3)
            or normals.shape != (corners, 3)
            or uvs.shape != (corners, 2)
            or triangles.shape != (len(triangles), 3)
        ):
            raise RenderError(
                "expected a mesh of positions (V, 3), normals (V, 3), uvs (V, 2) and triangles "
                f"(T, 3); found {positions.shape}, {normals.shape}, {uvs.shape}, {triangles.shape}"
            )
        self._call(
            "raster_add_mesh",
            *(_address(positions), _address(normals), _address(uvs), corners),
            *(_address(triangles), len(triangles)),
            ctypes.c_float(self.options.shadow_detail / 1000),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        failed = getattr(self._library, name)(
            self._handle, *arguments, self._message, _MESSAGE_SIZE
        )
        if failed:
            raise RenderError(f"the renderer 'fast' failed: {self._message.value.decode()}")
