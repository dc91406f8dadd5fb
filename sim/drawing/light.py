"""The one light of Bullet's OpenGL renderer, and the view from it, in float32 as Bullet computes.

The light does not depend on the camera, so that one shadow map serves all cameras of a state. The
eye that highlights are reflected to is not the camera either: Bullet leaves it where its orbit
camera stood when the plugin started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]  # (4, 4); [column, row], as OpenGL stores it

POSITION = (-5.0, -40.0, 200.0)  # metres
EYE = (-1.4547983, -0.25652, 0.26047)  # 1.5 m from the origin, at yaw -80 and pitch -10 degrees
BACKGROUND = (0.7, 0.7, 0.8)
SHADOW_SIZE = 4096  # texels along each side of the shadow map
SHADOW_REACH = 10.0  # metres from the origin to each side of the shadow map
_NEAR, _FAR = 1.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """What lights a scene; the defaults are Bullet's.

    Attributes:
        position: in metres; it is the direction that counts, and the distance for highlights.
        colour: what the light does to red, green and blue.
        ambient: share of the light that comes from everywhere.
        shade: what a shadow takes away of the rest.
        background: colour where nothing is drawn, 0..1.
    """

    position: tuple[float, float, float] = POSITION
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ambient: float = 0.5
    shade: float = 0.3
    background: tuple[float, float, float] = BACKGROUND


def product(a: Matrix, b: Matrix) -> Matrix:
    """The matrix that applies b, then a; sums run in one fixed order."""
    total = a[0][None] * b[:, 0, None]
    for k in (1, 2, 3):
        total = total + a[k][None] * b[:, k, None]
    result: Matrix = total.astype(np.float32)
    return result


def column_matrix(values: object) -> Matrix:
    """16 numbers in OpenGL's order, as PyBullet gives them."""
    return np.asarray(values, dtype=np.float32).reshape(4, 4)


def shadow_matrix() -> Matrix:
    """From world coordinates in metres to the shadow map's clip coordinates, -1..1."""
    f32 = np.float32
    light = np.array(POSITION, dtype=f32)
    direction = light / np.sqrt(light @ light)
    k = f32(1) / np.sqrt(direction[1] * direction[1] + direction[2] * direction[2])
    up = np.array([0, -direction[2] * k, direction[1] * k], dtype=f32)
    forward = _unit(-light)
    side = _unit(np.cross(forward, up).astype(f32))
    upward = np.cross(side, forward).astype(f32)
    view = np.eye(4, dtype=f32)
    view[:3, 0], view[:3, 1], view[:3, 2] = side, upward, -forward
    view[3, :3] = -(side @ light), -(upward @ light), forward @ light
    ortho = np.eye(4, dtype=f32)
    ortho[0, 0] = ortho[1, 1] = f32(1) / f32(SHADOW_REACH)
    ortho[2, 2] = f32(-2) / f32(_FAR - _NEAR)
    ortho[3, 2] = -f32(_FAR + _NEAR) / f32(_FAR - _NEAR)
    return product(ortho, view)


def shadow_lookup_matrix() -> Matrix:
    """From world coordinates to the shadow map's texture coordinates and depth, 0..1."""
    bias = np.diag(np.array([0.5, 0.5, 0.5, 1], dtype=np.float32))
    bias[3, :3] = 0.5
    return product(bias, shadow_matrix())


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vector / np.sqrt(vector @ vector)
    return unit
