"""The tables of scenes A to D: one URDF with its meshes each.

All lengths here are metres in the loaded world. The scene loads a table scaled by 0.8, so
files hold lengths divided by that. A convex hull gets a 1 mm margin from Bullet; the
collision solids below are the measured outside of CALVIN's, less that margin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .base import CABINET_TOP, Layout, base_mesh
from .mesh import Mesh, Point, UvMap, bevelled, box, cut_rectangle, lathe, number, numbers, prism
from .textures import GREY_UV

SCALE = 1 / 0.8
LAYOUTS = {
    "A": Layout(-0.28, 0.30, -0.10, 0.28, 0.10, (-0.36, 0.16)),
    "B": Layout(0.28, -0.32, 0.088, 0.304, 0.18, (-0.18, 0.34), 0.136, 0.11526),
    "C": Layout(-0.12, -0.32, 0.06, 0.24, 0.10, (-0.18, 0.34)),
    "D": Layout(-0.12, 0.30, -0.10, 0.28, 0.18, (-0.36, 0.16)),
}
# Wood of the body and of the moving parts, and whether the body's grain runs along x.
WOODS = {
    "A": ("mahogany", "mahogany", True),
    "B": ("birch", "birch", False),
    "C": ("oak", "mahogany", False),
    "D": ("elm", "elm", True),
}
TILT = "1.0471975512 0 0"  # the cabinet's front: local y runs up the slope, local z points out


@dataclass(frozen=True)
class Link:
    """One link of a table and the joint that hangs it on the body.

    Attributes:
        name: Link ``<name>_link``, joint ``base__<name>``.
        origin: Joint frame in the world.
        mass: In kg; it is not scaled with the table.
        colour: RGBA of the material.
        axis: Direction of travel in the joint frame; None for a fixed joint.
        travel: Upper limit of the joint.
        tilted: Whether the frame lies along the cabinet's front.
        centre: Centre of mass in the joint frame. Prismatic joints do not feel it.
    """

    name: str
    origin: tuple[float, float, float]
    mass: float
    colour: str = "1 1 1 1"
    axis: str | None = None
    travel: float = 0.0
    tilted: bool = False
    centre: tuple[float, float, float] = (0.0, 0.0, 0.01)


def links(layout: Layout) -> list[Link]:
    """Lists the links in index order: tasks and recorded states rely on it."""
    grey, black = "0.4 0.4 0.4 1", "0 0 0 1"
    return [
        Link("button", (layout.button, -0.12, 0.46), 0.153812, black, "0 0 -1", 0.02),
        Link(
            "switch",
            (layout.switch, 0.060928, 0.49489),
            0.238787,
            grey,
            "0 1 0",
            0.088,
            tilted=True,
        ),
        Link(
            "slide",
            (layout.slide, 0.075, 0.535264),
            1.543491,
            axis="-1 0 0",
            travel=layout.slide_range,
            tilted=True,
        ),
        Link("drawer", (layout.drawer, 0.0, 0.32), 4.231281, axis="0 -1 0", travel=0.22),
        Link("led", (layout.button, 0.16, CABINET_TOP), 0.204),
        Link("light", (layout.switch, layout.bulb_y, CABINET_TOP), layout.bulb_mass),
        Link("plank", (layout.plank, 0.09, 0.42), 2.84375),
    ]


def table_files(scene: str) -> dict[str, str]:
    """Returns all text files of one table, paths relative to its folder."""
    layout = LAYOUTS[scene]
    body_wood, part_wood, along_x = WOODS[scene]
    files = {f"urdf/calvin_table_{scene}.urdf": _urdf(scene, links(layout))}
    for wood in {body_wood, part_wood}:
        files[f"meshes/{wood}.mtl"] = f"newmtl {wood}\nKd 1 1 1\nmap_Kd ../textures/{wood}.png\n"
    body_uv = _wood_uv(along_x)
    base = base_mesh(layout, body_uv)
    files["meshes/base_link.obj"] = base.obj(SCALE, body_wood)
    files["meshes/plank_link.obj"] = _plank(_wood_uv(along_x, layout.plank)).obj(SCALE, body_wood)
    # Doors and drawers of all tables but B have their grain along x.
    part_uv = _wood_uv(along_x or part_wood != body_wood)
    files["meshes/slide_link.obj"] = _slide(part_uv).obj(SCALE, part_wood)
    files["meshes/drawer_link.obj"] = _drawer(part_uv).obj(SCALE, part_wood)
    for name, build in (
        ("switch_link", _switch),
        ("button_link", _button),
        ("led_link", _led),
        ("slide_link_hulls", _slide_hulls),
        ("drawer_link_hulls", _drawer_hulls),
        ("switch_link_hulls", _switch_hulls),
    ):
        files[f"meshes/{name}.obj"] = build().obj(SCALE)
    files["meshes/light_link.obj"] = _light(0.16 - layout.bulb_y).obj(SCALE)
    return files


def _urdf(scene: str, table: list[Link]) -> str:
    """Writes the table's URDF; only the body's collision mesh is used as it is, not as a hull."""
    head = f'<?xml version="1.0"?>\n<robot name="calvin_table_{scene}" concave="yes">\n'
    body = Link("base", (0, 0, 0), 0.0, centre=(0.0, 0.4, -0.036))
    text = head + _link(body, "base_link", ' concave="yes"')
    for link in table:
        mesh = f"{link.name}_link"
        hulls = f"{mesh}_hulls" if link.name in ("switch", "slide", "drawer") else mesh
        text += _link(link, hulls, "") + _joint(link)
    return text + "</robot>\n"


def _link(link: Link, hulls: str, flag: str) -> str:
    # Bullet wraps a shape off the centre of mass in a compound, and margin and contact order
    # follow; CALVIN's links are all like this, so no centre here is zero.
    centre = numbers(value * SCALE for value in link.centre)
    return f"""  <link name="{link.name}_link">
    <inertial>
      <origin xyz="{centre}" rpy="0 0 0"/>
      <mass value="{number(link.mass)}"/>
      <inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/>
    </inertial>
    <visual>
      <geometry><mesh filename="../meshes/{link.name}_link.obj"/></geometry>
      <material name="{link.name}"><color rgba="{link.colour}"/></material>
    </visual>
    <collision{flag}>
      <geometry><mesh filename="../meshes/{hulls}.obj"/></geometry>
    </collision>
  </link>
"""


def _joint(link: Link) -> str:
    kind = "fixed" if link.axis is None else "prismatic"
    origin = numbers(value * SCALE for value in link.origin)
    turn = TILT if link.tilted else "0 0 0"
    travel = ""
    if link.axis is not None:
        upper = number(link.travel * SCALE)
        travel = f"""
    <axis xyz="{link.axis}"/>
    <limit lower="0" upper="{upper}" effort="0" velocity="0"/>"""
    return f"""  <joint name="base__{link.name}" type="{kind}">
    <parent link="base_link"/>
    <child link="{link.name}_link"/>
    <origin xyz="{origin}" rpy="{turn}"/>{travel}
  </joint>
"""


def _wood_uv(along_x: bool, x_shift: float = 0.0) -> UvMap:
    """Lays the wood on faces: u runs along the grain, both at 0.98 images per metre.

    Args:
        along_x: Grain along x on all faces that have an x direction, else across it.
        x_shift: Moves the pattern, so that the cabinet's floor continues the table top.
    """

    def uv(point: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
        x, y, z = point
        if abs(normal[0]) > 0.7:
            # Ends and legs stand upright where the grain runs along x elsewhere.
            upright = along_x and abs(x) > 0.39
            along, across = (z, y + 0.2) if upright else (y + 0.2, z)
        else:
            rise = y + 0.2 if abs(normal[2]) > 0.7 else float(np.hypot(y, z)) - 0.25
            across, along = rise, x + x_shift + 0.45
            if not along_x:
                along, across = across, along
        return (_inside(along * 0.98), across * 0.98)

    return uv


def _inside(u: float) -> float:
    """Keeps u on the wooden part of the image: the rest of it is the handles' grey."""
    return min(max(u, 0.005), 0.9)


def _plank(uv_map: UvMap) -> Mesh:
    mesh = Mesh(uv_map)
    box(mesh, (-0.26, -0.07, 0.0), (0.26, 0.07, 0.02))
    return mesh


def _led() -> Mesh:
    mesh = Mesh()
    box(mesh, (-0.08, -0.02, 0.0), (0.08, 0.02, 0.016))
    return mesh


def _button() -> Mesh:
    mesh = Mesh()
    lathe(mesh, [(0.032, 0.0), (0.032, 0.024)], 36)
    return mesh


def _light(y: float) -> Mesh:
    """A bulb on a short neck; its ball is cut by the cabinet's top."""
    radius, centre = 0.0282, 0.0213
    start = np.arcsin((0.002 - centre) / radius)
    angles = np.linspace(start, np.pi / 2, 9)
    ball = [(radius * np.cos(t), centre + radius * np.sin(t)) for t in angles[:-1]]
    mesh = Mesh()
    lathe(mesh, [(0.020, 0.0), *ball, (0.0, centre + radius)], 20)
    return mesh.moved(lambda at: (at[0], at[1] + y, at[2])).smooth()


@dataclass(frozen=True)
class Grip:
    """A U-shaped grip, 0.02 thick, with rounded edges.

    Attributes:
        half: Half the length of the bar.
        foot: Where the posts begin.
        top: Outside of the bar.
        width: Extent across the bar.
        radius: Rounding of the two outer corners.
    """

    half: float
    foot: float
    top: float
    width: tuple[float, float]
    radius: float = 0.008


def _grip_mesh(grip: Grip, place: Callable[[float, float, float], Point]) -> Mesh:
    """Builds a grip; ``place`` turns (along the bar, off the panel, across) into a point."""
    thick, half, top = 0.02, grip.half, grip.top
    arc = [np.pi / 2 * k / 3 for k in range(4)]
    outer = [(-half, grip.foot)]
    for t in arc:
        along, off = grip.radius * (1 - np.cos(t)), grip.radius * (1 - np.sin(t))
        outer.append((-half + along, top - off))
    inner = [(-half + thick, grip.foot)] + [(-half + thick, top - thick)] * 4
    outer += [(-a, b) for a, b in outer[::-1]]
    inner += [(-a, b) for a, b in inner[::-1]]
    # The section is an octagon: corners as (share of the thickness, place across).
    octagon = cut_rectangle((0.0, grip.width[0]), (thick, grip.width[1]), 0.0055)
    ring = [(a / thick, c) for a, c in octagon]
    rows = [
        [np.array(place(ia + (oa - ia) * t, ib + (ob - ib) * t, c)) for t, c in ring]
        for (oa, ob), (ia, ib) in zip(outer, inner, strict=True)
    ]
    mesh = Mesh()
    for here, there in pairwise(rows):
        heart = np.mean([*here, *there], axis=0)
        for k in range(len(ring)):
            after = (k + 1) % len(ring)
            face = [here[k], here[after], there[after], there[k]]
            mesh.add(face, outward=np.mean(face, axis=0) - heart)
    return mesh.smooth()


def _with_grip(panel: Mesh, grip: Mesh) -> Mesh:
    """Joins a grip to a wooden panel; its texture coordinates lie on the grey strip."""
    for face in grip.parts["shape"]:
        for corner in face:
            corner.uv = GREY_UV
    panel.parts["shape"] += grip.parts["shape"]
    return panel


def _slide(uv_map: UvMap) -> Mesh:
    panel = Mesh(uv_map)
    box(panel, (0.0, -0.11, 0.0), (0.28, 0.11, 0.02))
    grip = Grip(0.08, 0.02, 0.08, (0.12, 0.16))
    return _with_grip(panel, _grip_mesh(grip, lambda a, b, c: (c, a, b)))


def _slide_hulls() -> Mesh:
    """The door is 1 cm taller to touch than to see, as in CALVIN; its front bulges slightly."""
    mesh = Mesh()
    rim, heart = (-0.0006, -0.1206, 0.2806, 0.1203), (0.119, -0.08, 0.161, 0.08)
    for x0, y0, x1, y1, z0, z1 in ((*rim, -0.0006, 0.0209), (*heart, 0.0, 0.0216)):
        box(mesh, (x0, y0, z0), (x1, y1, z1), "panel")
    for name, low, high in (("lower", -0.0803, -0.0577), ("upper", 0.0574, 0.0811)):
        box(mesh, (0.119, low, 0.0219), (0.161, high, 0.0564), name)
    profile = [(0.119, 0.0564), (0.161, 0.0564), (0.161, 0.0763), (0.1572, 0.0801)]
    profile += [(0.1228, 0.0801), (0.119, 0.0763)]
    bevelled(mesh, profile, lambda a, b, depth: (a, depth, b), (-0.0803, 0.0811), 0.003, "bar")
    return mesh


def _drawer(uv_map: UvMap) -> Mesh:
    panel = Mesh(uv_map)
    wall, low, high = 0.18, -0.16, 0.06
    box(panel, (-0.22, -0.18, -0.02), (0.22, -0.16, 0.08))
    box(panel, (-0.20, low, 0.0), (0.20, high, 0.02))
    box(panel, (-0.20, low, 0.02), (-wall, high, 0.08))
    box(panel, (wall, low, 0.02), (0.20, high, 0.08))
    box(panel, (-wall, 0.04, 0.02), (wall, high, 0.08))
    grip = Grip(0.12, 0.18, 0.26, (0.02, 0.06))
    return _with_grip(panel, _grip_mesh(grip, lambda a, b, c: (a, -b, c)))


def _drawer_hulls() -> Mesh:
    mesh = Mesh()
    box(mesh, (-0.2209, -0.1808, -0.0209), (0.2209, -0.1574, 0.0812), "front")
    box(mesh, (-0.2015, -0.1574, -0.0015), (-0.1777, 0.0609, 0.0812), "left")
    box(mesh, (0.1769, -0.1574, -0.0015), (0.2015, 0.0609, 0.0812), "right")
    box(mesh, (-0.1777, 0.0388, -0.0015), (0.1769, 0.0609, 0.0812), "back")
    box(mesh, (-0.1769, -0.1574, -0.0015), (0.1769, 0.0388, 0.0214), "floor")
    outline = cut_rectangle((0.097, 0.0196), (0.1206, 0.0615), 0.0037)
    for name, sign in (("left_post", -1), ("right_post", 1)):
        flipped = [(sign * a, b) for a, b in outline]
        bevelled(mesh, flipped, lambda a, b, y: (a, y, b), (-0.2612, -0.182), 0.0045, name)
    outline = cut_rectangle((-0.2612, 0.0196), (-0.2383, 0.0601), 0.004)
    prism(mesh, outline, lambda a, b, depth: (depth, a, b), (-0.097, 0.097), "bar")
    return mesh


def _switch() -> Mesh:
    return _grip_mesh(Grip(0.06, 0.0, 0.064, (-0.008, 0.024), 0.012), lambda a, b, c: (a, c, b))


def _switch_hulls() -> Mesh:
    mesh = Mesh()
    for name, sign in (("left", -1), ("right", 1)):
        profile = [(0.0386, 0.0), (0.0602, 0.0), (0.0602, 0.0545), (0.0578, 0.0596)]
        profile += [(0.0530, 0.0643), (0.0386, 0.0643)]
        flipped = [(sign * a, b) for a, b in profile]
        bevelled(mesh, flipped, lambda a, b, u: (a, u, b), (-0.008, 0.0242), 0.0038, name)
    outline = cut_rectangle((-0.008, 0.0434), (0.0242, 0.0643), 0.0038)
    prism(mesh, outline, lambda a, b, depth: (depth, a, b), (-0.0386, 0.0386), "bar")
    return mesh
