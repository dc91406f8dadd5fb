"""Small scenes for the tests of our own renderers, made of boxes and squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.bullet import pybullet
from calvin_eval.sim.drawing.meshes import Mesh, box
from calvin_eval.sim.drawing.scene import Scene, SceneState, Shape

NEAR, FAR = 0.01, 10.0
STILL = (0.0, 0.0, 0.0, 1.0)


def square(size: float, repeats: float = 1.0) -> Mesh:
    """A square of two triangles in the plane z = 0 that looks up, `size` metres wide."""
    half = size / 2
    corners = [(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)]
    uvs = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * repeats
    return Mesh(
        np.array(corners, np.float32),
        np.tile(np.array([[0, 0, 1]], np.float32), (4, 1)),
        uvs.astype(np.float32),
        np.array([(0, 1, 2), (0, 2, 3)], np.int32),
    )


def sphere(radius: float, rings: int = 24) -> Mesh:
    """A round body of many small triangles, outward normals."""
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
    )
    points = np.stack(
        (np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)), axis=-1
    )
    index = np.arange(points.shape[0] * points.shape[1]).reshape(points.shape[:2])
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.concatenate(
        [np.stack((a, b, c), -1).reshape(-1, 3), np.stack((a, c, d), -1).reshape(-1, 3)]
    )
    normals = points.reshape(-1, 3)
    uvs = np.stack((around / (2 * np.pi), polar / np.pi), axis=-1).reshape(-1, 2)
    return Mesh(
        (radius * normals).astype(np.float32),
        normals.astype(np.float32),
        uvs.astype(np.float32),
        triangles.astype(np.int32),
    )


def chequer(width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A texture of coloured squares; 48 is no power of two."""
    y, x = np.mgrid[:height, :width]
    odd = (x // 8 + y // 8) % 2
    return np.stack((255 * odd, 4 * x, 255 - 5 * y), axis=-1).astype(np.uint8)


def scene(meshes: Sequence[Mesh], textures: Sequence[Any] = (), pairs: Any = None) -> Scene:
    """A scene of one white shape per mesh, or of (mesh, texture) `pairs`."""
    pairs = pairs or [(index, -1) for index in range(len(meshes))]
    shapes = tuple(Shape(mesh, texture, i, -1) for i, (mesh, texture) in enumerate(pairs))
    return Scene(tuple(meshes), tuple(textures), shapes, ())


def state(*shapes: Sequence[float], colours: Any = None) -> SceneState:
    """A state from positions (3 numbers) or poses (7 numbers); white unless asked."""
    poses = [tuple(s) if len(s) == 7 else (*s, *STILL) for s in shapes]
    colours = np.ones((len(poses), 4)) if colours is None else colours
    return SceneState(np.array(poses, np.float32), np.array(colours, np.float32))


def camera(
    eye: Sequence[float],
    target: Sequence[float] = (0, 0, 0),
    size: tuple[int, int] = (96, 72),
    fov: float = 50,
) -> tuple[Any, Any, int, int]:
    """View and projection as PyBullet makes them, width and height."""
    up = (0, 1, 0) if np.allclose(np.array(eye)[:2], np.array(target)[:2]) else (0, 0, 1)
    view = pybullet.computeViewMatrix(eye, target, up)
    projection = pybullet.computeProjectionMatrixFOV(fov, size[0] / size[1], NEAR, FAR)
    return view, projection, *size


def metres(buffer: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances along the viewing direction."""
    z = buffer.astype(np.float64)
    return FAR * NEAR / (FAR - (FAR - NEAR) * z)


def tabletop() -> tuple[Scene, list[SceneState]]:
    """A textured floor, boxes and a sphere that move, change colour and vanish; 8 states."""
    meshes = [square(6, 5), box((0.2, 0.3, 0.1)), box((0.1, 0.1, 0.4)), sphere(0.25)]
    drawn = scene(meshes, [chequer()], [(0, 0), (1, -1), (2, -1), (3, 0), (1, -1)])
    rng = np.random.default_rng(5)
    states = []
    poses = [[0, 0, 0, *STILL]] + [[*rng.uniform(-0.6, 0.6, 2), 0.4, *STILL] for _ in range(4)]
    for step in range(8):
        moving = step % 5
        if moving:
            turn = rng.normal(size=4)
            poses[moving] = [*rng.uniform(-0.6, 0.6, 2), 0.4, *(turn / np.linalg.norm(turn))]
        colours = np.ones((5, 4))
        colours[1] = (1, 0.2, 0.1, 1) if step < 4 else (0.1, 0.3, 1, 1)
        colours[2, 3] = step % 3 != 2
        states.append(state(*poses, colours=colours))
    return drawn, states
