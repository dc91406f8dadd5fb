"""The fixed body of a table: legs, slab, drawer housing and tilted cabinet.

The body is constant along x between a few planes. A grid of quadrilateral cells covers its
cross-section (y, z); each cell is wood or air in each interval of x. The surface is where wood
meets air, so it is closed by construction, and neighbouring faces in one plane are merged:
the table top is a single rectangle, on which a sliding block never crosses an edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .mesh import Mesh, UvMap

SLOPE = np.array([0.5, np.sqrt(0.75)])  # (y, z) up the cabinet's front, 30 degrees off vertical
NORMAL = np.array([-np.sqrt(0.75), 0.5])  # (y, z) out of the cabinet's front
FOOT = np.array([0.02, 0.44])  # where the front meets the table top
TOP = 0.44
CABINET_TOP = 0.44 + 0.24 * float(SLOPE[1])
CEILING = CABINET_TOP - 0.02
SLOT_DEPTH = 0.008
SLOT_RANGE = (0.06, 0.18)  # along the slope
SLOT_RADIUS = 0.008


@dataclass(frozen=True)
class Layout:
    """Where the parts of one table are, along x in metres.

    Attributes:
        button: Centre of the button and of the LED.
        switch: Centre of the lever and of the bulb.
        slide: Left edge of the closed door.
        slide_range: Travel of the door to the left.
        drawer: Centre of the drawer.
        opening: Left and right side of the cabinet's opening.
        bulb_y: Depth of the bulb's frame.
        bulb_mass: Mass of the bulb in kg.
    """

    button: float
    switch: float
    slide: float
    slide_range: float
    drawer: float
    opening: tuple[float, float]
    bulb_y: float = 0.132
    bulb_mass: float = 0.17392

    @property
    def plank(self) -> float:
        """Centre of the cabinet's floor."""
        return round((self.opening[0] + self.opening[1]) / 2, 6)

    @property
    def cavity(self) -> tuple[float, float]:
        """Left and right side of the hole for the drawer."""
        return (self.drawer - 0.20, self.drawer + 0.20)

    @property
    def slots(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Left and right side of the two slots behind the lever."""
        return (
            (self.switch - 0.06, self.switch - 0.04),
            (self.switch + 0.04, self.switch + 0.06),
        )


def base_mesh(layout: Layout, uv_map: UvMap | None) -> Mesh:
    """Builds the body of a table in world coordinates."""
    mesh = Mesh(uv_map)
    breaks = [-0.44, -0.42, -0.40, 0.40, 0.42, 0.44, *layout.cavity, *layout.opening]
    breaks += [x for slot in layout.slots for x in slot]
    xs = np.unique(np.round(breaks, 6))
    _skin(mesh, xs, *_lower(xs, layout), open_top_from=FOOT[0])
    _skin(mesh, xs, *_upper(xs, layout), open_bottom=True)
    for slot in layout.slots:
        _slot_corners(mesh, slot)
    _ring(mesh, layout.button)
    return mesh


def on_slope(s: float, depth: float = 0.0) -> np.ndarray:
    """Returns (y, z) of a point s up the cabinet's front and ``depth`` behind it."""
    return np.asarray(FOOT + s * SLOPE - depth * NORMAL)


def _lower(xs: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and wood of the part up to the table top: a rectangular grid."""
    ys = np.array([-0.18, -0.16, -0.148, 0.02, 0.06, 0.148, 0.16, 0.18])
    zs = np.array([0.0, 0.30, 0.32, 0.40, 0.42, TOP])
    nodes = np.stack(np.meshgrid(ys, zs), axis=-1)
    x, z, y = np.meshgrid(*(_middles(a) for a in (xs, zs, ys)), indexing="ij")
    legs = (abs(x) > 0.40) & (abs(y) > 0.148)
    cavity = _within(x, layout.cavity) & (y < 0.06) & (z > 0.32)
    housing = (abs(x) < 0.42) & (abs(y) < 0.16) & (z > 0.30) & ~cavity
    # The slab is hollowed for the cabinet's floor, a link of its own: equal heights would flicker.
    recess = _within(x, layout.opening) & _within(y, (0.02, 0.16)) & (z > 0.42)
    return nodes, np.where(z > 0.40, ~recess, legs | housing)


def _upper(xs: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and wood of the cabinet: columns follow the tilted front."""
    lintel = (CEILING - TOP) / SLOPE[1]
    nodes = np.zeros((5, 4, 2))
    for row, s in enumerate((0.0, *SLOT_RANGE, float(lintel), 0.24)):
        front = on_slope(s)
        inner = on_slope(s, SLOT_DEPTH)
        if row not in (1, 2):  # only the ends of the slots are square to the slope
            inner = np.array([front[0] - SLOT_DEPTH / NORMAL[0], front[1]])
        nodes[row] = (front, inner, (0.16, front[1]), (0.18, front[1]))
    wood = np.ones((len(xs) - 1, 4, 3), bool)
    middles = _middles(xs)
    wood[_within(middles, layout.opening), :3, :2] = False
    for slot in layout.slots:
        wood[_within(middles, slot), 1, 0] = False
    return nodes, wood


def _middles(values: np.ndarray) -> np.ndarray:
    return np.asarray((values[1:] + values[:-1]) / 2)


def _within(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return np.asarray((values > span[0]) & (values < span[1]))


def _skin(
    mesh: Mesh,
    xs: np.ndarray,
    nodes: np.ndarray,
    wood: np.ndarray,
    open_top_from: float | None = None,
    open_bottom: bool = False,
) -> None:
    """Adds the faces between wood and air of one grid.

    Args:
        mesh: Receives the faces.
        xs: Planes between the intervals along x.
        nodes: (rows + 1, columns + 1, 2) corners of the cells.
        wood: (intervals, rows, columns).
        open_top_from: Leaves out faces of the last row of nodes behind this y.
        open_bottom: Leaves out faces of the first row of nodes.
    """
    solid = np.pad(wood.astype(int), 1)
    # Faces along x, on the lines of nodes of constant row and then of constant column.
    for lines, grid in ((nodes, solid), (nodes.swapaxes(0, 1), solid.swapaxes(1, 2))):
        steps = grid[1:-1, :-1, 1:-1] - grid[1:-1, 1:, 1:-1]
        for index, line in enumerate(lines):
            face = steps[:, index].copy()
            if lines is nodes and index == 0 and open_bottom:
                face[:] = 0
            if lines is nodes and index == len(lines) - 1 and open_top_from is not None:
                face[:, _middles(line[:, 0]) > open_top_from] = 0
            near, far = max(index - 1, 0), min(index + 1, len(lines) - 1)
            for (a, b), (start, stop), sign in _runs(face, line):
                across = sign * (lines[far][start] - lines[near][start])
                corners = [(xs[a], *line[start]), (xs[b], *line[start])]
                corners += [(xs[b], *line[stop]), (xs[a], *line[stop])]
                mesh.add(corners, outward=(0.0, *across))
    # Faces across x.
    steps = solid[:-1, 1:-1, 1:-1] - solid[1:, 1:-1, 1:-1]
    for index, x in enumerate(xs):
        for row in range(wood.shape[1]):
            flat = steps[index, row][None, :]
            for _, (start, stop), sign in _runs(flat, nodes[row], nodes[row + 1]):
                corners = [nodes[row, start], nodes[row, stop]]
                corners += [nodes[row + 1, stop], nodes[row + 1, start]]
                mesh.add([(x, *corner) for corner in corners], outward=(sign, 0.0, 0.0))


def _runs(
    face: np.ndarray, *lines: np.ndarray
) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
    """Yields maximal rectangles of equal non-zero entries as (first axis, second axis, entry).

    A rectangle grows along the second axis only while all lines of nodes stay straight.
    """
    face = face.copy()
    for start in range(face.shape[1]):
        for low in range(face.shape[0]):
            sign = int(face[low, start])
            if sign == 0:
                continue
            high = low
            while high < face.shape[0] and face[high, start] == sign:
                high += 1
            stop = start + 1
            while (
                stop < face.shape[1]
                and (face[low:high, stop] == sign).all()
                and all(_straight(line[start], line[stop], line[stop + 1]) for line in lines)
            ):
                stop += 1
            face[low:high, start:stop] = 0
            yield (low, high), (start, stop), sign


def _straight(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    first, second = b - a, c - b
    return abs(float(first[0] * second[1] - first[1] * second[0])) < 1e-12


def _slot_corners(mesh: Mesh, slot: tuple[float, float], steps: int = 3) -> None:
    """Rounds the four corners of a slot: a bent wall and the filled corner on the slope."""
    for x, x_in in ((slot[0], 1), (slot[1], -1)):
        for s, s_in in ((SLOT_RANGE[0], 1), (SLOT_RANGE[1], -1)):
            angles = [np.pi / 2 * k / steps for k in range(steps + 1)]
            arc = [
                (
                    x + x_in * SLOT_RADIUS * (1 - np.sin(t)),
                    s + s_in * SLOT_RADIUS * (1 - np.cos(t)),
                )
                for t in angles
            ]
            inward = (x_in, *(s_in * SLOPE))
            corner = (x, *on_slope(s))
            for (xa, sa), (xb, sb) in pairwise(arc):
                a, b = (xa, *on_slope(sa)), (xb, *on_slope(sb))
                behind = [(xb, *on_slope(sb, SLOT_DEPTH)), (xa, *on_slope(sa, SLOT_DEPTH))]
                mesh.add([a, b, *behind], outward=inward)
                mesh.add([a, b, corner], outward=(0.0, *NORMAL))


def _ring(mesh: Mesh, x: float, sides: int = 12) -> None:
    """Adds the rim around the button; it stands on the table top, which stays whole."""

    def corner(radius: float, index: int, z: float) -> tuple[float, float, float]:
        angle = 2 * np.pi * index / sides
        return (x + radius * np.cos(angle), -0.12 + radius * np.sin(angle), z)

    for k in range(sides):
        top = [corner(0.040, k, 0.46), corner(0.040, k + 1, 0.46)]
        inner = [corner(0.030, k, 0.46), corner(0.030, k + 1, 0.46)]
        middle = 2 * np.pi * (k + 0.5) / sides
        away = np.array([np.cos(middle), np.sin(middle), 0.0])
        mesh.add([*top, *inner[::-1]], outward=(0, 0, 1))
        mesh.add([*top, corner(0.040, k + 1, TOP), corner(0.040, k, TOP)], outward=away)
        mesh.add([*inner, corner(0.030, k + 1, TOP), corner(0.030, k, TOP)], outward=-away)
