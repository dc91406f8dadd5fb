"""Meshes as Bullet's OpenGL renderer draws them: OBJ and STL files, URDF boxes and cylinders.

Facts, all of Bullet's importers: an OBJ file is one triangle soup in file order with fanned
polygons; a triangle has the file's normals if all three exist, else its own; a mesh's scale
multiplies positions only. Boxes and cylinders are convex hulls with few vertices, whose normals
point away from their centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import AssetError
from calvin_eval.sim.drawing.textures import load_texture

_RIM = 32  # corners of the polygon that stands for a cylinder's circle
_MARGIN = 0.001  # metres by which Bullet grows that polygon
_FLAT = np.finfo(np.float64).eps  # squared length below which a triangle has no normal


@dataclass(frozen=True, eq=False)
class Mesh:
    """One drawn geometry.

    Attributes:
        positions: (V, 3) float32 corners in metres, in the link's inertial frame; one entry per
            distinct triple of position, normal and texture coordinates.
        normals: (V, 3) float32 as Bullet has them: not always of length 1, zero for a triangle
            without an area.
        uvs: (V, 2) float32 texture coordinates, v upwards.
        triangles: (T, 3) int32, in the order in which they are drawn.
    """

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uvs: NDArray[np.float32]
    triangles: NDArray[np.int32]

    def __post_init__(self) -> None:
        for array in (self.positions, self.normals, self.uvs, self.triangles):
            array.setflags(write=False)

    def moved(
        self, scale: Sequence[float], position: Sequence[float], rotation: NDArray[np.float64]
    ) -> Mesh:
        """The mesh scaled, then turned by `rotation` (3, 3), then moved by `position` in metres.

        Positions are rounded to float32 after scaling and again after moving, as Bullet does.
        """
        scaled = (self.positions.astype(np.float64) * np.asarray(scale)).astype(np.float32)
        placed = scaled.astype(np.float64) @ rotation.T + np.asarray(position)
        turned = self.normals.astype(np.float64) @ rotation.T
        return Mesh(
            np.ascontiguousarray(placed, dtype=np.float32),
            np.ascontiguousarray(turned, dtype=np.float32),
            self.uvs,
            self.triangles,
        )


def weld(corners: NDArray[np.float32]) -> Mesh:
    """A mesh of a triangle soup (3T, 8): position, normal, texture coordinates of each corner.

    Equal corners become one, in the order of their first use.
    """
    rows = np.ascontiguousarray(corners + np.float32(0))  # -0 and 0 are the same place
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * 8))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = rows[first[order]]
    return Mesh(
        np.ascontiguousarray(kept[:, :3]),
        np.ascontiguousarray(kept[:, 3:6]),
        np.ascontiguousarray(kept[:, 6:]),
        rank[inverse.ravel()].astype(np.int32).reshape(-1, 3),
    )


@lru_cache(maxsize=256)
def load_mesh(path: Path) -> Mesh:
    """Read an OBJ or a binary STL file.

    Raises:
        AssetError: another format, or a file that is missing or damaged.
    """
    try:
        if path.suffix.lower() == ".obj":
            return weld(_obj_corners(path))
        if path.suffix.lower() == ".stl":
            return weld(_stl_corners(path.read_bytes(), path))
    except (OSError, ValueError, IndexError) as error:
        raise AssetError(f"cannot read the mesh {path}: {error}") from error
    raise AssetError(f"expected an OBJ or STL mesh; {path} is neither, so `fast` cannot draw it")


def _stl_corners(data: bytes, path: Path) -> NDArray[np.float32]:
    layout = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + count * layout.itemsize:
        raise AssetError(f"expected a binary STL file; {path} has another length than it announces")
    facets = np.frombuffer(data, layout, count, offset=84)
    soup = np.full((count, 3, 8), 0.5, dtype=np.float32)
    soup[:, :, :3] = facets["corners"]
    soup[:, :, 3:6] = facets["normal"][:, None]
    return soup.reshape(-1, 8)


def _obj_corners(path: Path) -> NDArray[np.float32]:
    """The triangle soup (3T, 8) of an OBJ file."""
    tables: dict[str, list[list[str]]] = {"v": [], "vt": [], "vn": []}
    soup: list[tuple[int, int, int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        kind, *fields = line.split() or [""]
        if kind in tables:
            tables[kind].append(fields[: 2 if kind == "vt" else 3])
        elif kind == "f":
            counts = (len(tables["v"]), len(tables["vt"]), len(tables["vn"]))
            polygon = [_corner(field, counts) for field in fields]
            for second, third in pairwise(polygon[1:]):
                soup += (polygon[0], second, third)
    indices = np.array(soup, dtype=np.int64).reshape(-1, 3)
    positions, uvs, normals = (
        np.array(tables[kind], dtype=np.float32).reshape(-1, width)
        for kind, width in (("v", 3), ("vt", 2), ("vn", 3))
    )
    corners = positions[indices[:, 0]]
    return np.hstack([corners, _normals(normals, indices, corners), _uvs(uvs, indices)])


def _corner(field: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """Indices from 0 of position, texture coordinate and normal; -1 where there is none."""
    found = [-1, -1, -1]
    for place, text in enumerate(field.split("/")[:3]):
        if text:
            index = int(text)
            found[place] = index - 1 if index > 0 else counts[place] + index
    return found[0], found[1], found[2]


def _normals(
    normals: NDArray[np.float32], indices: NDArray[np.int64], corners: NDArray[np.float32]
) -> NDArray[np.float32]:
    index = indices[:, 2]
    known = ((index >= 0) & (index < len(normals))).reshape(-1, 3).all(axis=1)
    first, second, third = corners.astype(np.float64).reshape(-1, 3, 3).transpose(1, 0, 2)
    cross = np.cross(second - first, third - first)
    squared = (cross**2).sum(axis=1, keepdims=True)
    flat = squared <= _FLAT
    own = np.where(flat, 0.0, cross / np.sqrt(np.where(flat, 1.0, squared)))
    result = np.repeat(own, 3, axis=0).astype(np.float32)
    if len(normals):
        of_file = np.repeat(known, 3)
        result[of_file] = normals[index[of_file]]
    return result


def _uvs(uvs: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    if not len(uvs):
        return np.full((len(indices), 2), 0.5, dtype=np.float32)
    index = indices[:, 1]
    known = (index >= 0) & (index < len(uvs))
    found = np.zeros((len(indices), 2), dtype=np.float32)
    found[known] = uvs[index[known]]
    return found


@lru_cache(maxsize=256)
def obj_texture(path: Path) -> Path | None:
    """The image of a whole OBJ mesh: that of the first used material whose image can be read."""
    if path.suffix.lower() != ".obj":
        return None
    images: dict[str, str] = {}
    used: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        kind, _, rest = line.strip().partition(" ")
        if kind == "mtllib":
            for name in rest.split():
                images |= _material_images(path.parent / name)
        elif kind == "usemtl" and rest.strip() not in used:
            used.append(rest.strip())
    for material in used:
        image = path.parent / images[material] if material in images else None
        if image is not None and load_texture(image) is not None:
            return image
    return None


def _material_images(path: Path) -> dict[str, str]:
    """Image by material, of an MTL file; a missing file has none."""
    images: dict[str, str] = {}
    material = ""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return images
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "newmtl":
            material = rest.strip()
        elif kind == "map_Kd":
            images[material] = rest.split()[-1]
    return images


@lru_cache(maxsize=1)
def _hulls() -> dict[str, Any]:
    """Which corners and triangles Bullet's convex hull makes of boxes and cylinders."""
    text = resources.files("calvin_eval.sim").joinpath("data/hulls.json").read_text("utf-8")
    hulls: dict[str, Any] = json.loads(text)
    return hulls


def box(extents: Sequence[float]) -> Mesh:
    """A box (three edge lengths in metres) of 8 corners, its faces cut as Bullet's hull cuts them.

    Which diagonals the hull takes depends on the order of the lengths; three cases are stored.
    """
    x, y, z = (round(length, 9) for length in extents)
    order = "x < y" if x < y else "x > y" if y < x > z else "x = y"
    (hull,) = (hull for hull in _hulls()["boxes"] if hull["order"] == order)
    signs = [[1.0 if sign == "+" else -1.0 for sign in corner] for corner in hull["corners"]]
    return _hull_mesh(np.array(signs) * np.asarray(extents) / 2, hull["triangles"])


def cylinder(length: float, radius: float) -> Mesh:
    """A cylinder (metres) along z, as the hull of corners that Bullet samples in 42 directions.

    The samples depend on the proportions; those of the pedestals in CALVIN's scenes are stored,
    and the nearer of them serves other cylinders.
    """
    ratio = math.log(length / radius)
    hull = min(
        _hulls()["cylinders"], key=lambda h: abs(math.log(h["length"] / h["radius"]) - ratio)
    )
    angles = 2 * np.pi * (np.array(hull["rim"]) // 2) / _RIM
    top = np.where(np.array(hull["rim"]) % 2, -length / 2, length / 2)
    rim = np.stack([radius * np.sin(angles), radius * np.cos(angles), top], axis=1)
    return _hull_mesh(rim + _MARGIN * np.array(hull["directions"]), hull["triangles"])


def _hull_mesh(corners: NDArray[np.float64], triangles: Sequence[Sequence[int]]) -> Mesh:
    """A hull (V, 3) with normals that point away from the origin; nothing textures it."""
    normals = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    return Mesh(
        corners.astype(np.float32),
        normals.astype(np.float32),
        np.full((len(corners), 2), 0.5, dtype=np.float32),
        np.array(triangles, dtype=np.int32),
    )
