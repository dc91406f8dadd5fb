"""The Franka arm with long fingers: the URDF, and the meshes of finger and gel pad.

The arm's own meshes are Bullet's, from the pybullet_data package; the reader of the pack
replaces ``package://pybullet_data/`` by that package's folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .arm import arm_meshes
from .mesh import Mesh, loft, prism

BULLET = "package://pybullet_data/franka_panda/meshes"
HALF_TURN = "0 0 3.14159265359"

FINGER_CONTACT = """    <contact>
      <friction_anchor/>
      <stiffness value="30000"/>
      <damping value="1000"/>
      <spinning_friction value="0.1"/>
      <lateral_friction value="1"/>
    </contact>
"""
PAD_CONTACT = """    <contact>
      <lateral_friction value="1"/>
      <spinning_friction value="0.001"/>
    </contact>
"""


@dataclass(frozen=True)
class Body:
    """A link of the robot.

    Attributes:
        name: Name of the link.
        mass: In kg.
        centre: Origin of the inertial frame.
        visual: Mesh to draw; empty for none.
        collision: Mesh to touch; empty for none.
        contact: Contact block.
        turn: Roll, pitch, yaw of both meshes.
    """

    name: str
    mass: str
    centre: str = "0 0 0"
    visual: str = ""
    collision: str = ""
    contact: str = ""
    turn: str = "0 0 0"


@dataclass(frozen=True)
class Joint:
    """A joint of the robot; one without limits is fixed.

    Attributes:
        name: Name of the joint.
        parent: Link that carries it.
        child: Link that it moves.
        xyz: Position in the parent.
        rpy: Rotation in the parent.
        axis: Direction.
        limit: Lower, upper, effort, velocity.
        kind: Type of a joint with limits.
    """

    name: str
    parent: str
    child: str
    xyz: str
    rpy: str = "0 0 0"
    axis: str = "0 0 1"
    limit: tuple[str, str, str, str] | None = None
    kind: str = "revolute"


def _arm(number: int, mass: str, centre: str, visual: str) -> Body:
    collision = f"{BULLET}/collision/link{number}.obj"
    return Body(f"panda_link{number}", mass, centre, visual or collision, collision)


# Bullet's visual meshes of the arm have 94,000 triangles and take half of the time of an image.
# Only the wrist and the hand, nearest to both cameras, keep theirs.
BODIES = (
    _arm(0, "2.9", "0 0 0.05", ""),
    _arm(1, "2.7", "0 -0.04 -0.05", "meshes/link1.obj"),
    _arm(2, "2.73", "0 -0.04 0.06", "meshes/link2.obj"),
    _arm(3, "2.04", "0.01 0.01 -0.05", "meshes/link3.obj"),
    _arm(4, "2.08", "-0.03 0.03 0.02", "meshes/link4.obj"),
    _arm(5, "3", "0 0.04 -0.12", "meshes/link5.obj"),
    _arm(6, "1.3", "0.04 0 0", f"{BULLET}/visual/link6.obj"),
    _arm(7, "0.2", "0 0 0.08", ""),
    Body("panda_link8", "0"),
    Body(
        "panda_hand",
        "0.81",
        "0 0 0.04",
        f"{BULLET}/visual/hand.obj",
        f"{BULLET}/collision/hand.obj",
    ),
    Body(
        "panda_leftfinger",
        "0.1",
        "0 0.01 0.02",
        "meshes/long_finger.obj",
        "meshes/long_finger_hull.obj",
        FINGER_CONTACT,
    ),
    Body("finger_left_tip", "0.0001", "0 0 0", "meshes/gel.obj", "meshes/gel.obj", PAD_CONTACT),
    Body(
        "panda_rightfinger",
        "0.1",
        "0 -0.01 0.02",
        "meshes/long_finger.obj",
        "meshes/long_finger_hull.obj",
        FINGER_CONTACT,
        HALF_TURN,
    ),
    Body("finger_right_tip", "0.0001", "0 0 0", "meshes/gel.obj", "meshes/gel.obj", PAD_CONTACT),
    Body("panda_grasptarget", "0"),
    Body("gripper_cam", "0.2", visual="box"),
    Body("tcp", "0.00001"),
)

QUARTER = "1.57079632679"
SLOW, FAST = ("87", "2.175"), ("12", "2.61")
# Position, roll, lower and upper limit, effort and velocity of the seven arm joints.
ARM = (
    ("0 0 0.333", "0", "-2.9671", "2.9671", SLOW),
    ("0 0 0", f"-{QUARTER}", "-1.8326", "1.8326", SLOW),
    ("0 -0.316 0", QUARTER, "-2.9671", "2.9671", SLOW),
    ("0.0825 0 0", QUARTER, "-3.1416", "0", SLOW),
    ("-0.0825 0.384 0", f"-{QUARTER}", "-2.9671", "2.9671", FAST),
    ("0 0 0", QUARTER, "-0.0873", "3.8223", FAST),
    ("0.088 0 0", QUARTER, "-2.9671", "2.9671", FAST),
)


def _finger(number: int, side: str, way: str, tip: str, turn: str) -> tuple[Joint, Joint]:
    """Returns the joints of a finger and of the pad on it."""
    finger, pad = f"panda_{side}finger", f"finger_{side}_tip"
    limit = ("0", "0.04", "20", "0.2")
    slide = Joint(f"panda_finger_joint{number}", "panda_hand", finger, "0 0 0.0584")
    return (
        replace(slide, axis=way, limit=limit, kind="prismatic"),
        Joint(f"joint_finger_tip_{side}", finger, pad, tip, turn),
    )


# The order decides the link indices.
JOINTS = (
    *(
        Joint(
            f"panda_joint{number}",
            f"panda_link{number - 1}",
            f"panda_link{number}",
            xyz,
            f"{roll} 0 0",
            limit=(lower, upper, *strength),
        )
        for number, (xyz, roll, lower, upper, strength) in enumerate(ARM, 1)
    ),
    Joint("panda_joint8", "panda_link7", "panda_link8", "0 0 0.107"),
    Joint("panda_hand_joint", "panda_link8", "panda_hand", "0 0 0", "0 0 -0.785398163397"),
    *_finger(1, "left", "0 1 0", "0.0009 0.021 0.066", "0 0 -1.57"),
    *_finger(2, "right", "0 -1 0", "-0.0009 -0.021 0.066", "0 0 1.57"),
    Joint("panda_grasptarget_hand", "panda_hand", "panda_grasptarget", "0 0 0.105"),
    Joint("camera_joint", "panda_hand", "gripper_cam", "-0.1 0 0", "1.3 0 -1.57"),
    Joint("tcp_joint", "panda_hand", "tcp", "0 0 0.14"),
)


def robot_files() -> dict[str, str]:
    """Returns the robot's text files, paths relative to its folder."""
    text = '<?xml version="1.0"?>\n<robot name="panda_longer_finger">\n'
    text += "".join(map(_link, BODIES)) + "".join(map(_joint, JOINTS)) + "</robot>\n"
    arm = {
        f"meshes/link{number}.obj": mesh.obj(decimals=5, material="arm")
        for number, mesh in arm_meshes().items()
    }
    return {
        **arm,
        "panda_longer_finger.urdf": text,
        "meshes/arm.mtl": "newmtl arm\nKd 1 1 1\nmap_Kd arm.png\n",
        "meshes/long_finger.obj": _finger_visual().obj(),
        "meshes/long_finger_hull.obj": _finger_hull().obj(decimals=8),
        "meshes/gel.obj": _gel().obj(decimals=8),
    }


def _link(body: Body) -> str:
    text = f"""  <link name="{body.name}">
{body.contact}    <inertial>
      <origin xyz="{body.centre}" rpy="0 0 0"/>
      <mass value="{body.mass}"/>
      <inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/>
    </inertial>
"""
    for tag, mesh in (("visual", body.visual), ("collision", body.collision)):
        if not mesh:
            continue
        shape = '<box size="0.08 0.025 0.01"/>' if mesh == "box" else f'<mesh filename="{mesh}"/>'
        paint = ""
        if tag == "visual":
            paint = '\n      <material name="white"><color rgba="1 1 1 1"/></material>'
        text += f"""    <{tag}>
      <origin xyz="0 0 0" rpy="{body.turn}"/>
      <geometry>{shape}</geometry>{paint}
    </{tag}>
"""
    return text + "  </link>\n"


def _joint(joint: Joint) -> str:
    kind, tail = "fixed", ""
    if joint.limit is not None:
        kind = joint.kind
        lower, upper, effort, velocity = joint.limit
        tail = f"""
    <axis xyz="{joint.axis}"/>
    <limit lower="{lower}" upper="{upper}" effort="{effort}" velocity="{velocity}"/>"""
    return f"""  <joint name="{joint.name}" type="{kind}">
    <parent link="{joint.parent}"/>
    <child link="{joint.child}"/>
    <origin xyz="{joint.xyz}" rpy="{joint.rpy}"/>{tail}
  </joint>
"""


def _finger_hull() -> Mesh:
    """A wedge of measured sections; its extent decides the finger's inertia in Bullet."""
    sections = (
        # z, x from, x to, y inside, y outside
        (0.000236, -0.0104, 0.0104, 0.0062, 0.026971),
        (0.034, -0.010479, 0.010495, 0.0052, 0.0216),
        (0.065, -0.0087, 0.0087, 0.0039, 0.0134),
        (0.0905, -0.0087, 0.0087, 0.003884, 0.0066),
        (0.09639, -0.0058, 0.0061, 0.00395, 0.0068),
    )
    rings = [[(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)] for z, x0, x1, y0, y1 in sections]
    mesh = Mesh()
    loft(mesh, rings)
    return mesh


def _finger_visual() -> Mesh:
    """A block at the hand, a slanted neck, and a tapering blade on a plate; (y, z) outlines."""
    outlines = (
        ([(0.0127, 0.0), (0.0270, 0.0), (0.0270, 0.0192), (0.0127, 0.0192)], 0.0105),
        ([(0.0195, 0.0192), (0.0270, 0.0192), (0.0147, 0.0336), (0.0090, 0.0336)], 0.0105),
        ([(0.0095, 0.0336), (0.0147, 0.0336), (0.0147, 0.0535), (0.0095, 0.0535)], 0.0098),
        ([(0.0035, 0.0355), (0.0105, 0.0355), (0.0105, 0.0545), (0.0036, 0.0545)], 0.0088),
        ([(0.0036, 0.0545), (0.0105, 0.0545), (0.0065, 0.085), (0.0036, 0.085)], 0.0088),
        ([(0.0036, 0.085), (0.0065, 0.085), (0.0045, 0.0960), (0.0038, 0.0960)], 0.0086),
    )
    mesh = Mesh()
    for outline, half in outlines:
        prism(mesh, outline, lambda y, z, x: (x, y, z), (-half, half))
    return mesh


GEL_BACK, GEL_APEX, GEL_RADIUS = 0.01606832, 0.02013599, 0.0205
GEL_RIDGE = (0.0130, 0.0198)  # along the finger: where the dome is highest


def _gel() -> Mesh:
    """A pad whose face is the side of a capsule, its outline an arch towards the fingertip.

    The frame is the tip link's: x towards the other finger, y across, z along the finger.
    """
    outline = _gel_outline()
    heart = np.array([0.0, sum(GEL_RIDGE) / 2])
    shares = (1.0, 0.75, 0.5, 0.25)
    rings = [[_gel_face(*(heart + t * (point - heart))) for point in outline] for t in shares]
    back = [(GEL_BACK, *point) for point in outline]
    apex = _gel_face(*heart)
    count = len(outline)
    mesh = Mesh()
    mesh.add(back, outward=(-1.0, 0.0, 0.0))
    for k in range(count):
        n = (k + 1) % count
        side = (0.0, *(outline[k] + outline[n] - 2 * heart))
        mesh.add([back[k], back[n], rings[0][n], rings[0][k]], outward=side)
        for outer, inner in pairwise(rings):
            for face in ([outer[k], outer[n], inner[n]], [outer[k], inner[n], inner[k]]):
                mesh.add(face, outward=(1.0, 0.0, 0.0))
        mesh.add([rings[-1][k], rings[-1][n], apex], outward=(1.0, 0.0, 0.0))
    return mesh.smooth(30)


def _gel_outline() -> list[np.ndarray]:
    """Returns (y, z) around the pad: an arch at the tip, small cut corners at the foot."""
    left, right, low, shoulder, high = -0.00919814, 0.00925169, 0.0047348, 0.0205, 0.02973305
    points = []
    for angle in np.linspace(0, np.pi, 13):
        across = right if angle < np.pi / 2 else -left
        points.append((across * np.cos(angle), shoulder + (high - shoulder) * np.sin(angle)))
    points += [(left, 0.0060), (-0.0082, low), (0.0, low), (0.0082, low), (right, 0.0060)]
    return [np.array(point) for point in points]


def _gel_drop(y: float, z: float) -> float:
    """Returns how far the face lies behind its ridge: round at the tip, squarer at the foot."""
    away = float(z - np.clip(z, *GEL_RIDGE))
    if away > 0:
        return GEL_RADIUS - float(np.sqrt(GEL_RADIUS**2 - y**2 - away**2))
    drops = [GEL_RADIUS - np.sqrt(GEL_RADIUS**2 - part**2) for part in (y, away)]
    return float(np.hypot(*drops))


def _gel_face(y: float, z: float) -> tuple[float, float, float]:
    return (GEL_APEX - _gel_drop(y, z), float(y), float(z))
