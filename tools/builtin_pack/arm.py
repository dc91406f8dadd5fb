"""Light visual meshes of the arm's first five links: tubes with rounded ends.

Bullet's own have 73,000 triangles and take a third of the time of an image; these have about
a thousand. Sizes are those of the Franka arm, joint frames as in the URDF, metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mesh import Mesh, Point, loft

SIDES = 16
RADIUS = 0.055
# Texture coordinates of the two colours in arm.png.
WHITE, DARK = (0.25, 0.5), (0.75, 0.5)
COLOURS = ((255, 255, 255), (105, 105, 115))


def arm_meshes() -> dict[int, Mesh]:
    """Returns the visual mesh of links 1 to 5, textured by arm.png."""
    shoulder, elbow = _shoulder(), _elbow()
    meshes = {
        1: shoulder,
        2: shoulder.moved(lambda at: (at[0], at[2], -at[1])),
        3: elbow,
        4: elbow.moved(lambda at: (at[0] - 0.0825, -at[2], at[1])),
        5: _forearm(),
    }
    return {number: _painted(mesh.smooth(40)) for number, mesh in meshes.items()}


def _painted(mesh: Mesh) -> Mesh:
    """Colours all parts white but those named dark, and makes one part of them."""
    faces = []
    for part, polygons in mesh.parts.items():
        for polygon in polygons:
            for corner in polygon:
                corner.uv = DARK if part == "dark" else WHITE
            faces.append(polygon)
    mesh.parts = {"shape": faces}
    return mesh


def _ellipse(centre: Point, u: Point, v: Point) -> list[np.ndarray]:
    angles = [2 * np.pi * k / SIDES for k in range(SIDES)]
    middle, first, second = (np.asarray(vector, float) for vector in (centre, u, v))
    return [middle + np.cos(t) * first + np.sin(t) * second for t in angles]


def _upright(z: float, x: tuple[float, float], y: tuple[float, float]) -> list[np.ndarray]:
    """Returns the level ellipse that fills a range of x and of y."""
    centre = (sum(x) / 2, sum(y) / 2, z)
    return _ellipse(centre, ((x[1] - x[0]) / 2, 0, 0), (0, (y[1] - y[0]) / 2, 0))


def _along_y(mesh: Mesh, x: float, profile: Sequence[tuple[float, float]], part: str) -> None:
    """Adds a lying tube through (x, 0, 0) with (y, radius) sections."""
    loft(mesh, [_ellipse((x, y, 0), (r, 0, 0), (0, 0, r)) for y, r in profile], part)


def _shoulder() -> Mesh:
    """An upright tube that bends into a lying one."""
    r = RADIUS
    mesh = Mesh()
    levels = (
        # z, back, front
        (-0.192, -r, r),
        (-0.120, -0.062, r),
        (-0.106, -0.067, 0.052),
        (-0.081, -0.086, 0.026),
        (-0.056, -0.110, 0.0),
        (-0.010, -0.122, 0.0),
    )
    loft(mesh, [_upright(z, (-r, r), (low, high)) for z, low, high in levels])
    rounded = [(-0.085, r), (-0.110, 0.050), (-0.123, 0.039), (-0.1294, 0.022)]
    _along_y(mesh, 0.0, [(0.0, r), *rounded], "shape")
    return mesh


def _elbow() -> Mesh:
    """An upright tube that widens into a lying one beside it."""
    r, x = RADIUS, 0.0825
    mesh = Mesh()
    rings = [_upright(-0.121, (-r, r), (-r, r)), _upright(-0.085, (-0.054, 0.058), (-r, r))]
    rings += [
        _ellipse((0.040, 0.027, -0.045), (0.078, 0.011, 0), (0.011, 0.068, 0)),
        _ellipse((0.060, 0.045, -0.010), (0.068, 0.005, 0), (0.005, 0.056, 0)),
    ]
    loft(mesh, rings)
    _along_y(mesh, x, [(0.0, r), (0.075, r)], "shape")
    _along_y(mesh, x, [(0.075, r), (0.093, 0.052), (0.106, 0.041)], "dark")
    _along_y(mesh, x, [(0.105, 0.034), (0.111, 0.029)], "shape")
    return mesh


def _forearm() -> Mesh:
    """A tube that narrows, leans forward and ends in a lying one."""
    mesh = Mesh()
    levels = (
        # z, half width, back, front
        (-0.259, 0.055, -0.055, 0.055),
        (-0.225, 0.054, -0.054, 0.066),
        (-0.181, 0.047, -0.044, 0.084),
        (-0.150, 0.038, -0.026, 0.095),
        (-0.110, 0.031, 0.0, 0.105),
        (-0.070, 0.034, 0.014, 0.115),
        (-0.030, 0.045, 0.016, 0.125),
        (0.0, 0.049, 0.016, 0.128),
    )
    loft(mesh, [_upright(z, (-half, half), (back, front)) for z, half, back, front in levels])
    _along_y(mesh, 0.0, [(0.016, 0.050), (0.110, 0.051), (0.130, 0.042)], "shape")
    return mesh
