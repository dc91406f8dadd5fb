"""The Franka arm: loading, inverse kinematics, motors and proprioception.

Rules: docs/protocol.md#actions and #reset. The order of calls matters to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.actions import ParsedAction
from calvin_eval.sim.bullet import BulletClient, joint_infos, pybullet
from calvin_eval.sim.packs import RobotSpec, SceneSpec

_NULL_SPACE_RANGE = 7.0  # radians: upstream leaves the null-space limits this wide
_FINGER_VELOCITY = 1
_OPENING_FORCE_DIVISOR = 100  # the gripper opens with a hundredth of its closing force


class Robot:
    """One arm in one world.

    Args:
        bullet: the world's server.
        spec: of the robot.
        scene: where it stands, and how.
        urdf: path of the robot's file.
        drawn: whether there are visual shapes.

    Attributes:
        body: Bullet's body id.
        gripper_action: the last gripper command, -1 or 1; 1 in a fresh world.
        grip: force of the fingers as a ratio to the robot's own.
    """

    def __init__(
        self,
        bullet: BulletClient,
        spec: RobotSpec,
        scene: SceneSpec,
        urdf: str,
        *,
        drawn: bool = True,
    ) -> None:
        self._bullet = bullet
        self._spec = spec
        self.gripper_action: float = 1
        self.grip = 1.0
        self.body: int = bullet.loadURDF(
            fileName=urdf,
            basePosition=scene.robot_base_position,
            baseOrientation=bullet.getQuaternionFromEuler(scene.robot_base_orientation),
            useFixedBase=True,
        )
        self._links: dict[str, int] = {
            info[12].decode(): info[0] for info in joint_infos(bullet, self.body)
        }
        self._add_pedestal(scene, drawn=drawn)
        self._gear_fingers()
        self._initial_joints = np.array(scene.robot_initial_joints)
        self._lower = np.array(spec.lower_limits)
        self._upper = np.array(spec.upper_limits)
        dofs = len(spec.arm_joints) + len(spec.gripper_joints)
        self._null_space = (
            [-_NULL_SPACE_RANGE] * dofs,
            [_NULL_SPACE_RANGE] * dofs,
            [_NULL_SPACE_RANGE] * dofs,
            [*self._initial_joints, spec.gripper_limits[1], spec.gripper_limits[1]],
        )
        self.reset()

    def _add_pedestal(self, scene: SceneSpec, *, drawn: bool) -> None:
        """A white cylinder to look at under the arm; it touches nothing."""
        if not drawn:  # the body remains: the numbers of those after it stay
            self._bullet.createMultiBody()
            return
        x, y, height = scene.robot_base_position
        yaw = scene.robot_base_orientation[2]
        visual = self._bullet.createVisualShape(
            shapeType=pybullet.GEOM_CYLINDER,
            rgbaColor=[1, 1, 1, 1],
            radius=0.13,
            length=height,
            visualFramePosition=[x - math.cos(yaw) * 0.05, y - math.sin(yaw) * 0.05, height / 2],
        )
        self._bullet.createMultiBody(baseVisualShapeIndex=visual)

    def _gear_fingers(self) -> None:
        """Keep the fingers centred: both joints move alike."""
        left, right = self._spec.gripper_joints
        gear = self._bullet.createConstraint(
            self.body,
            left,
            self.body,
            right,
            jointType=pybullet.JOINT_GEAR,
            jointAxis=[1, 0, 0],
            parentFramePosition=[0, 0, 0],
            childFramePosition=[0, 0, 0],
        )
        self._bullet.changeConstraint(gear, gearRatio=-1, erp=0.1, maxForce=50)

    def reset(self, robot_obs: NDArray[np.float64] | None = None) -> None:
        """Put the joints where `robot_obs` (15,) has them, or into the scene's initial pose."""
        if robot_obs is None:
            joints, finger = self._initial_joints, self._spec.gripper_limits[1]
        else:
            joints, finger = robot_obs[7:14], robot_obs[6] / 2
        for index, angle in zip(self._spec.arm_joints, joints, strict=True):
            self._bullet.resetJointState(self.body, index, angle)
            self._move_joint(index, angle)
        for index in self._spec.gripper_joints:
            self._bullet.resetJointState(self.body, index, finger)
            self._move_finger(index, finger, self._spec.gripper_force * self.grip)
        position, euler = self._tcp()
        self._target_position = np.array(position)
        self._target_euler = np.array(euler)

    def apply(self, action: ParsedAction, errors: NDArray[np.float64] | None = None) -> None:
        """Set every motor's target; time does not pass.

        Args:
            action: what was commanded.
            errors: (6,) metres and radians by which the pose that the arm is sent to differs, or
                (7,) radians of the joints for joint actions; they do not accumulate.
        """
        if action.joints is not None:
            joints = action.joints
            if action.kind == "joint_rel":
                joints = np.array(self._arm_angles()) + joints
            if errors is not None:
                joints = joints + errors
        else:
            joints = self._solve(action, errors)
        for index in range(self._spec.end_effector_link):
            self._move_joint(index, joints[index])
        self.gripper_action = action.gripper
        closing = action.gripper == -1
        target = self._spec.gripper_limits[0 if closing else 1]
        force = self._spec.gripper_force * self.grip / (1 if closing else _OPENING_FORCE_DIVISOR)
        for index in self._spec.gripper_joints:
            self._move_finger(index, target, force)

    def _solve(
        self, action: ParsedAction, errors: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Arm joint angles (7,) that bring the tcp to the action's pose."""
        position, orientation = action.position, action.orientation
        assert position is not None
        assert orientation is not None
        if action.kind == "cartesian_rel":
            # Accumulated on the target, not on the measured pose: small moves are not lost.
            self._target_position += position * self._spec.max_rel_pos
            self._target_euler += orientation * self._spec.max_rel_orn
            position, orientation = self._target_position, self._target_euler
        if errors is not None:
            position = position + errors[:3]
            if len(orientation) == 4:
                orientation = np.array(self._bullet.getEulerFromQuaternion(orientation))
            orientation = orientation + errors[3:]
        if len(orientation) == 3:
            orientation = self._bullet.getQuaternionFromEuler(orientation)
        solution = self._bullet.calculateInverseKinematics(
            self.body, self._spec.tcp_link, position, orientation, *self._null_space
        )
        joints: NDArray[np.float64] = np.clip(
            solution[: len(self._lower)], self._lower, self._upper
        )
        return joints

    def _move_joint(self, index: int, angle: float) -> None:
        self._bullet.setJointMotorControl2(
            self.body,
            index,
            pybullet.POSITION_CONTROL,
            targetPosition=angle,
            force=self._spec.joint_force,
            maxVelocity=self._spec.max_velocity,
        )

    def _move_finger(self, index: int, position: float, force: float) -> None:
        self._bullet.setJointMotorControl2(
            self.body,
            index,
            pybullet.POSITION_CONTROL,
            targetPosition=position,
            force=force,
            maxVelocity=_FINGER_VELOCITY,
        )

    def _tcp(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        position, quaternion = self._bullet.getLinkState(self.body, self._spec.tcp_link)[:2]
        return position, self._bullet.getEulerFromQuaternion(quaternion)

    def _arm_angles(self) -> list[float]:
        states = self._bullet.getJointStates(self.body, self._spec.arm_joints)
        return [state[0] for state in states]

    def link(self, name: str) -> int:
        """Bullet's index of a link."""
        return self._links[name]

    def opening_width(self) -> float:
        """Distance between the fingers in metres, 0..0.08."""
        left, right = self._bullet.getJointStates(self.body, self._spec.gripper_joints)
        return float(left[0] + right[0])

    def observe(self) -> NDArray[np.float64]:
        """`robot_obs` (15,) float64: tcp pose (euler), opening, 7 joints, gripper command."""
        position, euler = self._tcp()
        return np.array(
            [*position, *euler, self.opening_width(), *self._arm_angles(), self.gripper_action]
        )

    def info(self) -> dict[str, Any]:
        """Upstream's robot info, contact points included."""
        position, euler = self._tcp()
        return {
            "tcp_pos": position,
            "tcp_orn": euler,
            "gripper_opening_width": self.opening_width(),
            "arm_joint_states": self._arm_angles(),
            "gripper_action": self.gripper_action,
            "uid": self.body,
            "contacts": self.contacts(),
        }

    def contacts(self) -> Any:
        """Bullet's contact points of the whole arm."""
        return self._bullet.getContactPoints(bodyA=self.body)
