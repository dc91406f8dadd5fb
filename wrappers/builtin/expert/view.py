"""What the expert sees: the simulator's state in terms of blocks, doors and the hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calvin_eval.wrappers.builtin.expert.geometry import Table

Array = NDArray[np.float64]

_BODY, _LINK, _DISTANCE = 2, 4, 8  # in a Bullet contact point: other body, its link, distance


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block now.

    Attributes:
        name: for example `block_red`.
        position: (3,) of its centre.
        axes: (3, 3), its own axes as columns; the first is the long one.
        size: (3,) along its own axes.
        surfaces: what it touches besides the robot, as (body, link).
        touched: whether the robot touches it.
        gaps: by body, the smallest distance of its contact points in metres; negative where the
            bodies are pressed together.
    """

    name: str
    position: Array
    axes: Array
    size: Array
    surfaces: frozenset[tuple[int, int]]
    touched: bool
    gaps: Mapping[int, float]

    @property
    def up(self) -> int:
        """Which of its own axes is the most vertical."""
        return int(np.argmax(np.abs(self.axes[2])))

    @property
    def height(self) -> float:
        """Along its most vertical axis."""
        return float(self.size[self.up])

    @property
    def yaw(self) -> float:
        """Direction of the longer of its two level axes, modulo half a turn."""
        a, b = (i for i in range(3) if i != self.up)
        axis = a if self.size[a] >= self.size[b] else b
        return float(np.arctan2(self.axes[1, axis], self.axes[0, axis]))

    @property
    def square(self) -> bool:
        """Whether it looks the same after a quarter turn."""
        a, b = (i for i in range(3) if i != self.up)
        return bool(abs(self.size[a] - self.size[b]) < 1e-6)

    @property
    def length(self) -> float:
        """Of the longer of its level axes."""
        return max(float(self.size[i]) for i in range(3) if i != self.up)


class View:
    """The present state; replaced as a whole at every step."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def update(self, obs: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Read an observation and the privileged info."""
        robot, scene = np.asarray(obs["robot_obs"]), np.asarray(obs["scene_obs"])
        self.tcp, self.euler = robot[:3].copy(), robot[3:6].copy()
        self.width, self.gripper = float(robot[6]), float(robot[14])
        self.slide, self.drawer, self.button, self.switch = map(float, scene[:4])
        self.bulb, self.led = scene[4] > 0.5, scene[5] > 0.5
        objects = info["scene_info"]["movable_objects"]
        table = info["scene_info"]["fixed_objects"]["table"]
        self.surface = {name: (table["uid"], link) for name, link in table["links"].items()}
        self.uid = {name: thing["uid"] for name, thing in objects.items()}
        self.uids = {thing["uid"]: name for name, thing in objects.items()}
        robot_uid = info["robot_info"]["uid"]
        self.blocks = {n: self._block(n, thing, robot_uid) for n, thing in objects.items()}

    def _block(self, name: str, thing: Mapping[str, Any], robot: int) -> Block:
        touching = {(c[_BODY], c[_LINK]) for c in thing["contacts"]}
        length = self.table.lengths[name]
        gaps: dict[int, float] = {}
        for contact in thing["contacts"]:
            gaps[contact[_BODY]] = min(gaps.get(contact[_BODY], 1.0), contact[_DISTANCE])
        return Block(
            name=name,
            position=np.array(thing["current_pos"]),
            axes=Rotation.from_quat(thing["current_orn"]).as_matrix(),
            size=np.array([length, 0.04, 0.04]),
            surfaces=frozenset(t for t in touching if t[0] != robot),
            touched=any(t[0] == robot for t in touching),
            gaps=gaps,
        )

    def on(self, block: Block, link: str) -> bool:
        """Whether a block touches a link of the table."""
        return self.surface[link] in block.surfaces

    def neighbours(self, block: Block) -> list[Block]:
        """Blocks that a block touches."""
        return [self.blocks[self.uids[b]] for b, _ in sorted(block.surfaces) if b in self.uids]

    @property
    def held(self) -> Block | None:
        """The block in the closed hand."""
        touched = [b for b in self.blocks.values() if b.touched]
        if self.gripper > 0 or not touched or self.width < 0.01:
            return None
        return min(touched, key=lambda b: float(np.linalg.norm(b.position - self.tcp)))

    @property
    def tool(self) -> Array:
        """(3,) unit vector along which the fingers point."""
        axis: Array = Rotation.from_euler("xyz", self.euler).as_matrix()[:, 2]
        return axis

    @property
    def door(self) -> tuple[float, float]:
        """X of the sliding door's left and right edge."""
        left = self.table.door - self.slide
        return left, left + 0.28

    @property
    def handle(self) -> float:
        """X of the sliding door's handle."""
        return self.table.door + 0.14 - self.slide
