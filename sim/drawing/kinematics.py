"""Where a body's links are now, from its joint positions.

PyBullet's own answer either lags one physics step or, with `computeForwardKinematics`, replaces
the lagging poses that proprioception, inverse kinematics and the gripper camera are defined by.
Drawing may not do that, so the poses are computed here, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from calvin_eval.sim.bullet import BulletClient, joint_infos, pybullet

Vector: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]  # x, y, z, w
Pose: TypeAlias = tuple[Vector, Quaternion]  # of an inertial frame, in the world

_MOVING = (pybullet.JOINT_REVOLUTE, pybullet.JOINT_PRISMATIC)


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """The rotation b, then a."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def shift(start: Vector, rotation: Quaternion, offset: Vector) -> Vector:
    """`start` plus the rotated offset."""
    x, y, z, w = rotation
    vx, vy, vz = offset
    tx, ty, tz = 2 * (y * vz - z * vy), 2 * (z * vx - x * vz), 2 * (x * vy - y * vx)
    sx, sy, sz = start
    return (
        sx + vx + w * tx + y * tz - z * ty,
        sy + vy + w * ty + z * tx - x * tz,
        sz + vz + w * tz + x * ty - y * tx,
    )


@dataclass(frozen=True)
class Link:
    """One link: where its joint sits in the parent's inertial frame, and how it moves.

    Attributes:
        joint: position of its joint among the moving joints; -1 for a fixed one.
        slides: whether the joint is prismatic.
        axis: in the link's inertial frame.
        origin: of the joint in the parent's inertial frame, metres.
        turn: from the link's inertial axes to the parent's, at joint position 0.
        centre: of mass, from the joint, in the link's inertial frame, metres.
    """

    index: int
    parent: int
    joint: int
    slides: bool
    axis: Vector
    origin: Vector
    turn: Quaternion
    centre: Vector

    def pose(self, parent: Pose, value: float) -> Pose:
        """The link's pose, given its parent's and its joint's position (radians or metres)."""
        position, rotation = parent
        origin = shift(position, rotation, self.origin)
        rotation = multiply(rotation, self.turn)
        centre = self.centre
        if self.joint >= 0:
            ax, ay, az = self.axis
            if self.slides:
                centre = (centre[0] + ax * value, centre[1] + ay * value, centre[2] + az * value)
            else:
                sine, cosine = math.sin(value / 2), math.cos(value / 2)
                rotation = multiply(rotation, (ax * sine, ay * sine, az * sine, cosine))
        return shift(origin, rotation, centre), rotation


class Skeleton:
    """Some links of a body and what they hang on.

    Args:
        bullet: the physics server.
        body: Bullet's body id.
        wanted: indices of the links whose poses are asked for.
    """

    def __init__(self, bullet: BulletClient, body: int, wanted: Iterable[int]) -> None:
        self._bullet = bullet
        self._body = body
        infos = {info[0]: info for info in joint_infos(bullet, body)}
        needed: set[int] = set()
        for index in wanted:
            while index >= 0 and index not in needed:
                needed.add(index)
                index = infos[index][16]
        self._joints = [index for index in sorted(needed) if infos[index][2] in _MOVING]
        self._links = [self._link(infos[index]) for index in sorted(needed)]

    def _link(self, info: Sequence[Any]) -> Link:
        index, kind = info[0], info[2]
        centre, inertial = self._bullet.getDynamicsInfo(self._body, index)[3:5]
        turn = info[15]
        return Link(
            index=index,
            parent=info[16],
            joint=self._joints.index(index) if kind in _MOVING else -1,
            slides=kind == pybullet.JOINT_PRISMATIC,
            axis=info[13],
            origin=info[14],
            turn=(-turn[0], -turn[1], -turn[2], turn[3]),
            centre=shift((0.0, 0.0, 0.0), _inverse(inertial), centre),
        )

    def poses(self, base: Pose) -> dict[int, Pose]:
        """Pose of the inertial frame of every needed link, and of the base (-1)."""
        values: list[float] = []
        if self._joints:
            states = self._bullet.getJointStates(self._body, self._joints)
            values = [state[0] for state in states]
        poses = {-1: base}
        for link in self._links:
            value = values[link.joint] if link.joint >= 0 else 0.0
            poses[link.index] = link.pose(poses[link.parent], value)
        return poses


def _inverse(rotation: Quaternion) -> Quaternion:
    x, y, z, w = rotation
    return -x, -y, -z, w
