"""One play-table world in one physics server: build, reset, step, observe the state.

Rules: docs/protocol.md#determinism and #world. Every reset builds the world anew, in one fixed
order, with the overlapping pairs sorted: the state after any action is then a pure function of the
pack, the revision, the start state and the actions, to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import AssetError, InvalidStateError
from calvin_eval.protocol import OFFICIAL, Revision
from calvin_eval.sim.actions import ParsedAction
from calvin_eval.sim.bullet import BulletClient, joint_infos, pybullet
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.robot import Robot
from calvin_eval.sim.shifts.distractors import Thing, stand
from calvin_eval.sim.shifts.dynamics import BENCHMARK, Actuation, Dynamics
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.table import Button, Light, Switch, TableJoint

ROBOT_OBS_SIZE = 15
PHYSICS_RATE = 240  # steps a second
CONTROL_RATE = 30  # actions a second
SUBSTEPS = PHYSICS_RATE // CONTROL_RATE
GRAVITY = -9.8  # m/s^2


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Which parts of the info a task is judged by; everything else is not asked of Bullet.

    Attributes:
        robot_contacts: whether the robot's contact points are needed.
        poses: names of blocks whose position and orientation are needed.
        velocities: names of blocks whose velocities are needed.
        contacts: names of blocks whose contact points are needed.
        doors: names of doors whose joint state is needed.
    """

    robot_contacts: bool = False
    poses: frozenset[str] = frozenset()
    velocities: frozenset[str] = frozenset()
    contacts: frozenset[str] = frozenset()
    doors: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            robot_contacts=self.robot_contacts or other.robot_contacts,
            poses=self.poses | other.poses,
            velocities=self.velocities | other.velocities,
            contacts=self.contacts | other.contacts,
            doors=self.doors | other.doors,
        )


class World:
    """The simulator without cameras.

    Args:
        pack: the assets.
        scene: A, B, C or D.
        revision: which of upstream's two behaviours of the button to follow.

    Attributes:
        bullet: this world's own physics server.
        built: how often the world has been built; renderers notice a rebuild by it.
        drawn_by_bullet: whether Bullet's own renderers, or a package's, draw this world. Bodies
            then come with their visual shapes, whose files take two thirds of a reset to read.
        visuals: whether the bodies of the last reset have visual shapes; a variant's always do.
    """

    def __init__(self, pack: AssetPack, scene: str, revision: Revision = OFFICIAL.revision) -> None:
        self.pack = pack
        self.scene = pack.scene(scene)
        self.revision = revision
        self.built = 0
        self.drawn_by_bullet = True
        self.visuals = True
        self.bullet = BulletClient()
        self.distractors: tuple[Thing, ...] = ()
        self._dynamics = BENCHMARK
        self._actuation: Actuation | None = None

    @property
    def scene_obs_size(self) -> int:
        """Length of `scene_obs`: joint states, light states and six numbers per block."""
        scene = self.scene
        parts = (scene.doors, scene.buttons, scene.switches, scene.lights)
        return sum(map(len, parts)) + 6 * len(scene.blocks)

    def check_state(self, robot_obs: Any, scene_obs: Any) -> None:
        """Raise `InvalidStateError` unless both arrays can be reset to."""
        finite_array(robot_obs, "robot_obs", ROBOT_OBS_SIZE)
        scene_array = finite_array(scene_obs, "scene_obs", self.scene_obs_size)
        lights = scene_array[self._light_slice()]
        if not np.isin(lights, (0.0, 1.0)).all():
            raise InvalidStateError(
                f"expected light states of 0 or 1 in scene_obs; found {lights.tolist()}"
            )

    def reset(
        self,
        robot_obs: NDArray[np.float64] | None,
        scene_obs: NDArray[np.float64],
        variant: Variant | None = None,
    ) -> None:
        """Build a fresh world and put it into the given state; one physics step passes."""
        if robot_obs is not None:
            robot_obs = np.array(robot_obs, dtype=np.float64)
        self._dynamics = Dynamics.of(variant)
        shaken = variant is not None and self._dynamics != BENCHMARK
        self._actuation = Actuation(self._dynamics, variant) if shaken and variant else None
        self.distractors = ()
        self.visuals = self.drawn_by_bullet or variant is not None
        self._build()
        self._reset_table(np.array(scene_obs, dtype=np.float64))
        if variant is not None and variant.level("distractors"):
            ends = [self.bullet.getBasePositionAndOrientation(b)[0] for b in self.blocks.values()]
            button = self.bullet.getLinkState(self.table, self.links["button_link"])[4][0]
            self.distractors = stand(self.bullet, variant, np.array(ends)[:, :2], button)
        self.robot.reset(robot_obs)
        self.bullet.stepSimulation()

    @contextlib.contextmanager
    def shown(self) -> Iterator[BulletClient]:
        """A server in which this world's bodies, by the same numbers, have their visual shapes.

        Their poses are not this world's.
        """
        if self.visuals:
            yield self.bullet
            return
        twin = World(self.pack, self.scene.name, self.revision)
        try:
            twin._build()
            yield twin.bullet
        finally:
            twin.close()

    def place_robot(self, robot_obs: NDArray[np.float64]) -> None:
        """Put the robot alone into the given state, gripper open; one physics step passes."""
        self.robot.reset(np.array(robot_obs, dtype=np.float64))
        self.robot.gripper_action = 1  # as in a fresh world
        if self._actuation is not None:
            self._actuation.forget()
        self.bullet.stepSimulation()

    def _build(self) -> None:
        bullet = self.bullet
        bullet.resetSimulation()
        # After the reset, which would discard it: upstream sets it before, and so never has it.
        bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
        bullet.setTimeStep(1 / PHYSICS_RATE)
        bullet.setGravity(0, 0, GRAVITY)
        try:
            self._load_bodies()
        except pybullet.error as error:
            raise AssetError(
                f"PyBullet could not load scene {self.scene.name} of the {self.pack.name} pack "
                f"at {self.pack.root}: {error}. Run `calvin-eval assets verify`."
            ) from error
        self.built += 1

    def _load_bodies(self) -> None:
        """Load everything in the order that upstream does; the order shows in the bits."""
        bullet, pack, scene = self.bullet, self.pack, self.scene
        dynamics = self._dynamics
        load = bullet.loadURDF
        urdf = partial(pack.urdf, drawn=self.visuals)
        robot = urdf(pack.robot.urdf)
        self.robot = Robot(bullet, pack.robot, scene, robot, drawn=self.visuals)
        self.robot.grip = dynamics.grip
        scaling = scene.global_scaling * dynamics.size
        # Stacked in the air, clear of everything, so that no contact exists before the reset.
        self.blocks: dict[str, int] = {
            name: load(urdf(file), (0, 0, 1 + i), (0, 0, 0, 1), globalScaling=scaling)
            for i, (name, file) in enumerate(scene.blocks)
        }
        self.table: int = load(
            urdf(scene.table), (0, 0, 0), (0, 0, 0, 1), globalScaling=scene.global_scaling
        )
        self._wire_table()
        dynamics.apply(bullet, self.blocks.values())
        self.plane: int = load(urdf("plane/plane.urdf"))

    def _wire_table(self) -> None:
        bullet, scene = self.bullet, self.scene
        infos = joint_infos(bullet, self.table)
        joints = {info[1].decode(): info[0] for info in infos}
        self.links: dict[str, int] = {info[12].decode(): info[0] for info in infos}
        self.links["base_link"] = -1
        self.doors = [TableJoint(bullet, self.table, joints, name) for name in scene.doors]
        for door in self.doors:
            door.hold_by_friction()
        shown = (bullet, self.table) if self.visuals else None
        self.lights = [Light(spec, self.links, shown) for spec in scene.lights]
        lights = {light.name: light for light in self.lights}
        self.buttons = [
            Button(TableJoint(bullet, self.table, joints, spec.joint), lights[spec.light])
            for spec in scene.buttons
        ]
        self.switches = [
            Switch(TableJoint(bullet, self.table, joints, spec.joint), lights[spec.light])
            for spec in scene.switches
        ]

    def _light_slice(self) -> slice:
        start = len(self.scene.doors) + len(self.scene.buttons) + len(self.scene.switches)
        return slice(start, start + len(self.scene.lights))

    def _reset_table(self, scene_obs: NDArray[np.float64]) -> None:
        values = iter(scene_obs.tolist())
        for door in self.doors:
            door.place(next(values))
        buttons = [next(values) for _ in self.buttons]
        switches = [next(values) for _ in self.switches]
        for light in self.lights:
            light.switch(next(values) == 1)
        for button, position in zip(self.buttons, buttons, strict=True):
            button.reset(position, follow_light=self.revision == "head")
        for switch, position in zip(self.switches, switches, strict=True):
            switch.reset(position)
        for body in self.blocks.values():
            pose = [next(values) for _ in range(6)]
            quaternion = self.bullet.getQuaternionFromEuler(pose[3:])
            self.bullet.resetBasePositionAndOrientation(body, pose[:3], quaternion)

    def step(self, action: ParsedAction) -> None:
        """Apply one action and let a thirtieth of a second pass."""
        errors = None
        if self._actuation is not None:
            action = self._actuation.delayed(action, self.robot.gripper_action)
            errors = self._actuation.errors(joints=action.joints is not None)
        self.robot.apply(action, errors)
        step = self.bullet.stepSimulation
        for _ in range(SUBSTEPS):
            step()
        for button in self.buttons:
            button.step()
        for switch in self.switches:
            switch.step()

    def box(self, name: str) -> NDArray[np.float64]:
        """(2, 3) lowest and highest corner around a block or a link of the table, in metres."""
        body, link = (
            (self.blocks[name], -1) if name in self.blocks else (self.table, self.links[name])
        )
        return np.array(self.bullet.getAABB(body, link))

    def scene_obs(self) -> NDArray[np.float64]:
        """`scene_obs` (24,) float64: slide, drawer, button, switch, bulb, led, blocks' poses."""
        values: list[float] = [door.position for door in self.doors]
        values += [button.joint.position for button in self.buttons]
        values += [switch.joint.position for switch in self.switches]
        values += [float(light.on) for light in self.lights]
        for body in self.blocks.values():
            position, quaternion = self.bullet.getBasePositionAndOrientation(body)
            values += position
            values += self.bullet.getEulerFromQuaternion(quaternion)
        return np.array(values)

    def info(self, needs: Needs | None = None) -> dict[str, Any]:
        """Upstream's info, whole or reduced to what `needs` names."""
        if needs is None:
            robot = self.robot.info()
        else:
            robot = {"uid": self.robot.body}
            if needs.robot_contacts:
                robot["contacts"] = self.robot.contacts()
        return {"robot_info": robot, "scene_info": self._scene_info(needs)}

    def _scene_info(self, needs: Needs | None) -> dict[str, Any]:
        table: dict[str, Any] = {"uid": self.table, "links": self.links}
        if needs is None:
            table["contacts"] = self.bullet.getContactPoints(bodyA=self.table)
        info: dict[str, Any] = {
            "fixed_objects": {"table": table},
            "movable_objects": {
                name: self._block_info(name, body, needs) for name, body in self.blocks.items()
            },
            "doors": {
                door.name: {"current_state": door.position}
                for door in self.doors
                if needs is None or door.name in needs.doors
            },
            "lights": {light.name: {"logical_state": int(light.on)} for light in self.lights},
        }
        if needs is None:
            info["buttons"] = _trigger_info(self.buttons)
            info["switches"] = _trigger_info(self.switches)
        return info

    def _block_info(self, name: str, body: int, needs: Needs | None) -> dict[str, Any]:
        bullet = self.bullet
        info: dict[str, Any] = {"uid": body}
        if needs is None or name in needs.poses:
            info["current_pos"], info["current_orn"] = bullet.getBasePositionAndOrientation(body)
        if needs is None or name in needs.velocities:
            info["current_lin_vel"], info["current_ang_vel"] = bullet.getBaseVelocity(body)
        if needs is None or name in needs.contacts:
            info["contacts"] = bullet.getContactPoints(bodyA=body)
        return info

    def close(self) -> None:
        """Free the physics server; a second call does nothing."""
        self.bullet.close()


def _trigger_info(triggers: list[Button] | list[Switch]) -> Mapping[str, Any]:
    return {
        trigger.joint.name: {
            "joint_state": trigger.joint.position,
            "logical_state": int(trigger.on),
        }
        for trigger in triggers
    }


def finite_array(values: Any, name: str, size: int) -> NDArray[np.float64]:
    """A float64 copy of a state; raises InvalidStateError unless it has `size` finite numbers."""
    array = np.array(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise InvalidStateError(
            f"expected {name} to be {size} finite numbers; "
            f"found shape {array.shape}: {np.array2string(array, threshold=8, precision=3)}"
        )
    return array
