"""Blocks and floor."""

from __future__ import annotations

from .mesh import Mesh, number

COLOURS = {"red": "1 0 0 1", "blue": "0 0 1 1", "pink": "1 0 1 1"}
LENGTHS = {"small": 0.04, "middle": 0.056, "big": 0.08}
WIDTH = 0.04
SCALE = 1 / 0.8  # scenes load blocks scaled by 0.8


def block_files() -> dict[str, str]:
    """Returns the URDFs of all nine blocks."""
    return {
        f"block_{colour}_{size}.urdf": _block(colour, length)
        for colour in COLOURS
        for size, length in LENGTHS.items()
    }


def _block(colour: str, length: float) -> str:
    size = f"{number(length * SCALE)} {number(WIDTH * SCALE)} {number(WIDTH * SCALE)}"
    return f"""<?xml version="1.0"?>
<robot name="block_{colour}">
  <link name="base_link">
    <contact>
      <lateral_friction value="0.7"/>
      <spinning_friction value="0.001"/>
    </contact>
    <inertial>
      <mass value="1"/>
      <inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/>
    </inertial>
    <visual>
      <geometry><box size="{size}"/></geometry>
      <material name="{colour}"><color rgba="{COLOURS[colour]}"/></material>
    </visual>
    <collision>
      <geometry><box size="{size}"/></geometry>
    </collision>
  </link>
</robot>
"""


def plane_files() -> dict[str, str]:
    """Returns the floor: a quad to see, and a thick box to stand on."""
    # One image is 1 m of floor: two by two checks.
    mesh = Mesh(lambda point, normal: (float(point[0]) + 15, float(point[1]) + 15))
    mesh.add([(-15, -15, 0), (15, -15, 0), (15, 15, 0), (-15, 15, 0)])
    urdf = """<?xml version="1.0"?>
<robot name="plane">
  <link name="floor">
    <contact>
      <lateral_friction value="1"/>
    </contact>
    <inertial>
      <mass value="0"/>
      <inertia ixx="0" ixy="0" ixz="0" iyy="0" iyz="0" izz="0"/>
    </inertial>
    <visual>
      <geometry><mesh filename="floor.obj"/></geometry>
      <material name="floor"><color rgba="1 1 1 1"/></material>
    </visual>
    <collision>
      <origin xyz="0 0 -5" rpy="0 0 0"/>
      <geometry><box size="200 200 10"/></geometry>
    </collision>
  </link>
</robot>
"""
    return {
        "plane.urdf": urdf,
        "floor.obj": mesh.obj(material="floor"),
        "floor.mtl": "newmtl floor\nKd 1 1 1\nmap_Kd checks.png\n",
    }
