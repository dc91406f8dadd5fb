"""Triangle meshes: a small builder, a few solids, and the Wavefront OBJ text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Point: TypeAlias = Sequence[Any] | np.ndarray  # of two or three floats
Uv = tuple[float, float]
# Texture coordinate of a point on a face with the given outward normal.
UvMap = Callable[[np.ndarray, np.ndarray], Uv]


def number(value: float, decimals: int = 8) -> str:
    """Formats a number with at most these decimals, never as minus zero."""
    text = f"{float(value):.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def numbers(values: Iterable[float], decimals: int = 8) -> str:
    """Formats numbers separated by blanks."""
    return " ".join(number(value, decimals) for value in values)


@dataclass
class Corner:
    """One corner of a polygon: position, texture coordinate and, for smooth shading, normal."""

    position: np.ndarray
    uv: Uv | None = None
    normal: np.ndarray | None = None


@dataclass
class Mesh:
    """Convex polygons, grouped into named parts.

    A collision mesh becomes one convex hull per part; a visual mesh has a single part.

    Attributes:
        uv_map: Gives texture coordinates to new polygons; None for untextured meshes.
        parts: Part name to polygons.
    """

    uv_map: UvMap | None = None
    parts: dict[str, list[list[Corner]]] = field(default_factory=dict)

    def add(
        self, points: Sequence[Point], outward: Point | None = None, part: str = "shape"
    ) -> None:
        """Adds one convex polygon.

        Corners that coincide are merged, a face without area is dropped.

        Args:
            points: Corners, counter-clockwise seen from outside.
            outward: Reverses the corners unless the face looks this way.
            part: The part to add it to.
        """
        positions = [
            np.asarray(point, float)
            for k, point in enumerate(points)
            if not np.allclose(point, points[k - 1], atol=1e-9)
        ]
        if len(positions) < 3:
            return
        normal = face_normal(positions)
        if outward is not None and float(normal @ np.asarray(outward, float)) < 0:
            positions.reverse()
            normal = -normal
        uvs = [None if self.uv_map is None else self.uv_map(at, normal) for at in positions]
        face = [Corner(at, uv) for at, uv in zip(positions, uvs, strict=True)]
        self.parts.setdefault(part, []).append(face)

    def smooth(self, limit: float = 50.0) -> Mesh:
        """Shades edges of less than ``limit`` degrees as round; returns the mesh itself."""
        faces = [face for faces in self.parts.values() for face in faces]
        normals = [face_normal([corner.position for corner in face]) for face in faces]
        around: dict[tuple[float, ...], list[np.ndarray]] = {}
        for face, normal in zip(faces, normals, strict=True):
            for corner in face:
                around.setdefault(_key(corner.position), []).append(normal)
        least = np.cos(np.radians(limit))
        for face, normal in zip(faces, normals, strict=True):
            for corner in face:
                near = [n for n in around[_key(corner.position)] if n @ normal > least]
                total = np.sum(near, axis=0)
                corner.normal = total / np.linalg.norm(total)
        return self

    def moved(self, place: Callable[[np.ndarray], Point]) -> Mesh:
        """Returns an untextured copy with all corners elsewhere; mirroring is allowed."""
        copy = Mesh()
        for part, faces in self.parts.items():
            for face in faces:
                here = [corner.position for corner in face]
                normal = face_normal(here)
                there = [np.asarray(place(at), float) for at in here]
                tip = np.asarray(place(here[0] + normal), float)
                copy.add(there, outward=tip - there[0], part=part)
        return copy

    def obj(self, scale: float = 1.0, material: str | None = None, decimals: int = 6) -> str:
        """Writes the mesh as OBJ text, equal vertices shared.

        Args:
            scale: Factor on all positions.
            material: ``<material>.mtl`` next to the OBJ holds the material of that name.
            decimals: Decimals of positions.
        """
        positions, uvs, normals = _Table("v", decimals), _Table("vt", 4), _Table("vn", 3)
        body: list[str] = []
        for part, faces in self.parts.items():
            body.append(f"o {part}")
            if material is not None:
                body.append(f"usemtl {material}")
            for face in faces:
                texts = []
                for corner in face:
                    index = [positions.index(corner.position * scale), "", ""]
                    if corner.uv is not None:
                        index[1] = uvs.index(corner.uv)
                    if corner.normal is not None:
                        index[2] = normals.index(corner.normal)
                    texts.append("/".join(index).rstrip("/"))
                # Fans are written out: readers differ in how they cut polygons.
                body += [f"f {texts[0]} {a} {b}" for a, b in pairwise(texts[1:])]
        head = [] if material is None else [f"mtllib {material}.mtl"]
        lines = head + positions.lines + uvs.lines + normals.lines + body
        return "\n".join(lines) + "\n"


class _Table:
    """Numbered OBJ records in which equal ones share a number."""

    def __init__(self, keyword: str, decimals: int) -> None:
        self._keyword = keyword
        self._decimals = decimals
        self._index: dict[str, str] = {}
        self.lines: list[str] = []

    def index(self, values: Iterable[float]) -> str:
        """Returns the 1-based number of the record with these values."""
        line = f"{self._keyword} {numbers(values, self._decimals)}"
        if line not in self._index:
            self._index[line] = str(len(self._index) + 1)
            self.lines.append(line)
        return self._index[line]


def _key(position: np.ndarray) -> tuple[float, ...]:
    return tuple(np.round(position, 7).tolist())


def face_normal(points: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the unit normal of a polygon by Newell's method."""
    total = np.zeros(3)
    for here, after in pairwise([*points, points[0]]):
        total += np.cross(here, after)
    return np.asarray(total / np.linalg.norm(total))


def prism(
    mesh: Mesh,
    profile: Sequence[Point],
    place: Callable[[float, float, float], Point],
    span: tuple[float, float],
    part: str = "shape",
) -> None:
    """Adds a convex prism.

    Args:
        mesh: Receives the faces.
        profile: Convex polygon of (a, b) pairs.
        place: Turns (a, b, depth) into a point.
        span: Depth of the two end faces.
        part: The part to add to.
    """
    ends = [[np.asarray(place(a, b, depth), float) for a, b in profile] for depth in span]
    centre = np.mean(ends[0] + ends[1], axis=0)
    for end in ends:
        mesh.add(end, outward=np.mean(end, axis=0) - centre, part=part)
    for index in range(len(profile)):
        after = (index + 1) % len(profile)
        side = [ends[0][index], ends[0][after], ends[1][after], ends[1][index]]
        mesh.add(side, outward=np.mean(side, axis=0) - centre, part=part)


def box(mesh: Mesh, low: Point, high: Point, part: str = "shape") -> None:
    """Adds the box between two opposite corners."""
    profile = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    prism(mesh, profile, lambda a, b, depth: (a, b, depth), (low[2], high[2]), part)


def cut_rectangle(low: Point, high: Point, cut: float) -> list[tuple[float, float]]:
    """Returns a rectangle with its four corners cut off at 45 degrees."""
    (x0, y0), (x1, y1) = low, high
    return [
        (x0 + cut, y0),
        (x1 - cut, y0),
        (x1, y0 + cut),
        (x1, y1 - cut),
        (x1 - cut, y1),
        (x0 + cut, y1),
        (x0, y1 - cut),
        (x0, y0 + cut),
    ]


def bevelled(
    mesh: Mesh,
    profile: Sequence[Point],
    place: Callable[[float, float, float], Point],
    span: tuple[float, float],
    bevel: float,
    part: str,
) -> None:
    """Adds a convex prism whose end faces are smaller by a bevel all around."""
    low, high = span
    small = _shrunk(profile, bevel)
    layers = ((small, low), (profile, low + bevel), (profile, high - bevel), (small, high))
    loft(mesh, [[place(a, b, depth) for a, b in outline] for outline, depth in layers], part)


def _shrunk(profile: Sequence[Point], by: float) -> list[Point]:
    """Moves all edges of a convex polygon inwards."""
    centre = np.mean(np.asarray(profile, float), axis=0)
    lines = []
    for here, after in pairwise([*profile, profile[0]]):
        along = np.asarray(after, float) - here
        normal = np.array([along[1], -along[0]]) / np.linalg.norm(along)
        normal *= np.sign(normal @ (np.asarray(here, float) - centre))
        lines.append((normal, float(normal @ np.asarray(here, float)) - by))
    return [
        np.linalg.solve(np.array([first[0], second[0]]), np.array([first[1], second[1]]))
        for first, second in pairwise([lines[-1], *lines])
    ]


def loft(mesh: Mesh, rings: Sequence[Sequence[Point]], part: str = "shape") -> None:
    """Adds a closed skin of triangles over convex sections with equally many corners."""
    sections = [[np.asarray(point, float) for point in ring] for ring in rings]
    centres = [np.mean(ring, axis=0) for ring in sections]
    for lower, upper in pairwise(sections):
        middle = np.mean([*lower, *upper], axis=0)
        for k in range(len(lower)):
            after = (k + 1) % len(lower)
            outward = (lower[k] + lower[after] + upper[k] + upper[after]) / 4 - middle
            mesh.add([lower[k], lower[after], upper[after]], outward=outward, part=part)
            mesh.add([lower[k], upper[after], upper[k]], outward=outward, part=part)
    mesh.add(sections[0], outward=centres[0] - centres[1], part=part)
    mesh.add(sections[-1], outward=centres[-1] - centres[-2], part=part)


def lathe(mesh: Mesh, profile: Sequence[Point], sides: int) -> None:
    """Adds a solid of revolution around z.

    Args:
        mesh: Receives the faces.
        profile: (radius, z) from the bottom to the top.
        sides: Number of corners around.
    """
    angles = [2 * np.pi * index / sides for index in range(sides)]
    rings = [[(r * np.cos(t), r * np.sin(t), z) for t in angles] for r, z in profile]
    for (lower, upper), (start, stop) in zip(pairwise(rings), pairwise(profile), strict=True):
        for index in range(sides):
            after = (index + 1) % sides
            middle = np.pi * (2 * index + 1) / sides
            away, up = stop[1] - start[1], start[0] - stop[0]
            outward = (away * np.cos(middle), away * np.sin(middle), up)
            mesh.add([lower[index], lower[after], upper[after], upper[index]], outward)
    mesh.add(rings[0], outward=(0, 0, -1))
    mesh.add(rings[-1], outward=(0, 0, 1))
