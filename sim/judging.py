"""What the task oracle looks at: contacts, displacements, turns and speeds in two infos.

Bullet's ids are compared as they are: a surface is a pair (body, link), and the link of a table's
base is -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Info: TypeAlias = Mapping[str, Any]

BODY, LINK = 2, 4  # in a Bullet contact point: the other body, and its link
MAX_MOVE_WHILE_ROTATING = 0.1  # metres
MAX_TILT_WHILE_ROTATING = 30  # degrees
HALF_TURN = 180  # degrees
MAX_STACK_SPEED = 1  # m/s and rad/s


def block_of(info: Info, name: str) -> Mapping[str, Any]:
    """The part of an info that is about a block."""
    block: Mapping[str, Any] = info["scene_info"]["movable_objects"][name]
    return block


def bodies(thing: Mapping[str, Any]) -> set[int]:
    """Ids of the bodies that a thing touches."""
    return {contact[BODY] for contact in thing["contacts"]}


def surfaces(thing: Mapping[str, Any]) -> set[tuple[int, int]]:
    """What a thing touches, as (body, link)."""
    return {(contact[BODY], contact[LINK]) for contact in thing["contacts"]}


def surface_of(info: Info, body: str, link: str) -> tuple[int, int]:
    """A link of a fixed object, as (body, link)."""
    fixed = info["scene_info"]["fixed_objects"][body]
    return fixed["uid"], fixed["links"][link]


def robot_of(info: Info) -> int:
    """The robot's body id."""
    uid: int = info["robot_info"]["uid"]
    return uid


def displacement(start: Info, end: Info, name: str) -> Any:
    """(3,) metres by which a block has moved."""
    return np.array(block_of(end, name)["current_pos"]) - np.array(
        block_of(start, name)["current_pos"]
    )


def slow(block: Mapping[str, Any]) -> bool:
    """Whether a block hardly moves, as stacking wants it."""
    speeds = np.abs((*block["current_lin_vel"], *block["current_ang_vel"]))
    return bool(np.all(speeds < MAX_STACK_SPEED))


def on_blocks_only(touched: set[int], blocks: set[int]) -> bool:
    """Whether the bodies that are touched are blocks, at least one."""
    return bool(touched) and touched <= blocks


def turned(start: Info, end: Info, name: str) -> tuple[float, float, float]:
    """Degrees by which a block has turned about x, y and z, as extrinsic xyz euler angles."""
    from scipy.spatial.transform import Rotation

    before = Rotation.from_quat(block_of(start, name)["current_orn"])
    after = Rotation.from_quat(block_of(end, name)["current_orn"])
    x, y, z = (after * before.inv()).as_euler("xyz", degrees=True)
    return x, y, z
