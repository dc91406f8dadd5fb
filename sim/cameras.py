"""The two cameras of the benchmark, as matrices for Bullet's renderers.

Rules: docs/protocol.md#cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError, UnknownNameError
from calvin_eval.sim.packs import AssetPack, CameraSpec
from calvin_eval.sim.shifts.cameras import UPRIGHT, Mount
from calvin_eval.sim.world import World

GRIPPER_LINK = "gripper_cam"


def resolve_cameras(pack: AssetPack, cameras: Sequence[str | CameraSpec]) -> tuple[CameraSpec, ...]:
    """Specifications for camera names; a specification of the caller's own passes through.

    Raises:
        RenderError: tactile images are asked for, which calvin-eval does not make.
        UnknownNameError: the pack has no such camera.
    """
    specs = []
    for camera in cameras:
        if isinstance(camera, CameraSpec):
            specs.append(camera)
        elif camera in pack.cameras:
            specs.append(pack.cameras[camera])
        elif "tactile" in str(camera):
            raise RenderError(
                "expected the cameras static and gripper; found tactile, which calvin-eval does "
                "not simulate. Policies that need tactile images run on upstream's own package: "
                "sim.backend=calvin_env."
            )
        else:
            raise UnknownNameError("camera", camera, pack.cameras)
    return tuple(specs)


class Camera:
    """A camera in a world: where it looks now, and how its depth buffer reads in metres."""

    def __init__(self, spec: CameraSpec, world: World, mount: Mount = UPRIGHT) -> None:
        self.spec = spec
        self._mount = mount
        self._world = world
        bullet = world.bullet
        self.projection: Any = bullet.computeProjectionMatrixFOV(
            fov=spec.fov, aspect=spec.aspect, nearVal=spec.near, farVal=spec.far
        )
        self._fixed_view: Any = None
        if spec.look_from is not None:
            self._fixed_view = bullet.computeViewMatrix(
                cameraEyePosition=spec.look_from,
                cameraTargetPosition=spec.look_at,
                cameraUpVector=spec.up,
            )

    def view(self) -> Any:
        """The view matrix, 16 numbers in OpenGL's column order.

        The gripper camera's link pose is the one that Bullet computed before the last physics
        step, which is what upstream's images show.
        """
        if self._fixed_view is not None:
            return self._fixed_view
        bullet, robot = self._world.bullet, self._world.robot
        position, quaternion = bullet.getLinkState(robot.body, robot.link(GRIPPER_LINK))[:2]
        rotation = np.array(bullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        eye = np.array(position)
        if self._mount is not UPRIGHT:
            eye = eye + rotation @ self._mount.offset
            rotation = rotation @ self._mount.turn
        return bullet.computeViewMatrix(eye, eye + rotation[:, 1], -rotation[:, 2])

    def intrinsic(self) -> NDArray[np.float64]:
        """(3, 3) from a point before the camera to a pixel: column, row and 1, times the depth.

        Whole numbers are the centres of pixels; the first pixel is (0, 0), at the upper left.
        """
        across, down = self.projection[0], self.projection[5]
        width, height = self.spec.width, self.spec.height
        return np.array(
            [
                [across * width / 2, 0.0, (width - 1) / 2],
                [0.0, down * height / 2, (height - 1) / 2],
                [0.0, 0.0, 1.0],
            ]
        )

    def extrinsic(self) -> NDArray[np.float64]:
        """(4, 4) from the world to the camera as it stands now, in metres.

        The camera's x points to the right of the image, its y downwards, its z into the picture.
        """
        view = np.array(self.view(), dtype=np.float64).reshape(4, 4, order="F")
        return np.diag([1.0, -1.0, -1.0, 1.0]) @ view

    def metres(self, depth_buffer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance along the viewing direction in metres, float32, from a depth buffer in 0..1."""
        near, far = self.spec.near, self.spec.far
        depth: NDArray[np.float32] = 1.0 * far * near / (far - (far - near) * depth_buffer)
        return depth
