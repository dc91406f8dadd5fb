"""Actions between the world frame and the frame of the tool centre point (TCP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import choice, chunk_array, flag
from calvin_eval.wrappers.stages.rotations import from_matrix, to_matrix, wrap

# RoboVLMs shrinks the angles before it composes rotations and enlarges the result: not a unit,
# but what makes the composition nearly linear in angles that are x20 already.
_SHRINK = 0.01
_ANGLES = "euler_xyz_intrinsic"
SHAPES = ("fixed", "flattened")


@dataclass(frozen=True)
class TcpToWorld(ActionStage):
    """RoboVLMs' `tcp_rel`: relative actions (k, 7) from the TCP frame to the world frame.

    It reads CALVIN's Euler angles as intrinsic ones, so its TCP frame is not the true one; but it
    is the one that such checkpoints are trained in. Every row is turned by the pose measured at
    the decision. Returns float64, as the original does.
    """

    def __call__(self, actions: Actions, context: Context) -> NDArray[np.float64]:
        """A chunk (k, 7) float64."""
        return tcp_to_world(chunk_array("tcp_to_world", actions, columns=(7,)), _euler(context))


@dataclass(frozen=True)
class WorldToTcp(ActionStage):
    """The inverse of `TcpToWorld`."""

    def __call__(self, actions: Actions, context: Context) -> NDArray[np.float64]:
        """A chunk (k, 7) float64."""
        return world_to_tcp(chunk_array("world_to_tcp", actions, columns=(7,)), _euler(context))


@dataclass(frozen=True, kw_only=True)
class StateRelative(ActionStage):
    """From a motion in the true TCP frame to differences of CALVIN's pose.

    RoboVLMs without `--raw_calvin`, GR-MG. In come a translation in metres and Euler angles in
    radians, both in the TCP frame; out come the differences of position and of Euler angles to
    the pose measured at the decision. `scale` makes CALVIN's units of them.

    Attributes:
        euler_wrap: whether the difference of angles is brought into [-pi, pi]. RoboVLMs does not:
            near a roll of pi, where CALVIN's arm starts, an angle can jump by a whole turn. The
            simulator bears that, but a clip behind it would not.
    """

    euler_wrap: bool = False

    def __post_init__(self) -> None:
        flag("euler_wrap of state_relative", self.euler_wrap)

    def __call__(self, actions: Actions, context: Context) -> NDArray[Any]:
        """A chunk (k, 7) of the same type."""
        values = chunk_array("state_relative", actions, columns=(7,))
        result = values.copy()
        pose = context.request.obs["robot_obs"][:6]
        result[:, :6] = compose_state_relative(values[:, :6], pose, euler_wrap=self.euler_wrap)
        return result


def world_to_tcp(
    actions: NDArray[Any], euler: NDArray[Any], *, shape: str = "fixed"
) -> NDArray[np.float64]:
    """RoboVLMs' world-to-TCP transform of relative actions (data_utils).

    Its sense of rotation is its own: at an orientation of zero the angles come out negated.

    Args:
        actions: (..., 7): translation, Euler angles and gripper, which is copied.
        euler: (..., 3) Euler angles of the TCP in radians, `robot_obs[3:6]`; broadcast.
        shape: "flattened" gives actions (B, T, n, 7) the shape (B, T * n, 1, 7), as the original
            does; "fixed" keeps their shape.

    Returns:
        (..., 7) float64.
    """
    actions, old = np.asarray(actions, np.float64), to_matrix(euler, _ANGLES)
    new = to_matrix(euler + _SHRINK * actions[..., 3:6], _ANGLES)
    turn = wrap(from_matrix(_transposed(new) @ old, _ANGLES))
    return _joined(_transposed(old), actions, turn / _SHRINK, shape)


def tcp_to_world(
    actions: NDArray[Any], euler: NDArray[Any], *, shape: str = "fixed"
) -> NDArray[np.float64]:
    """The inverse of `world_to_tcp`."""
    actions, old = np.asarray(actions, np.float64), to_matrix(euler, _ANGLES)
    new = old @ _transposed(to_matrix(_SHRINK * actions[..., 3:6], _ANGLES))
    turn = wrap(from_matrix(new, _ANGLES) - euler)
    return _joined(old, actions, turn / _SHRINK, shape)


def compose_state_relative(
    motion: NDArray[Any], pose: NDArray[Any], *, euler_wrap: bool = False
) -> NDArray[np.float64]:
    """What a motion in the TCP frame changes in a pose (RoboVLMs, CALVIN's model wrapper).

    Args:
        motion: (..., 6): metres and extrinsic xyz Euler angles in radians, in the TCP frame.
        pose: (..., 6) in the world, `robot_obs[:6]`; broadcast.
        euler_wrap: whether the difference of angles is brought into [-pi, pi].

    Returns:
        (..., 6) float64: differences of position and of Euler angles.
    """
    motion, pose = np.asarray(motion, np.float64), np.asarray(pose, np.float64)
    start = to_matrix(pose[..., 3:6], "euler_xyz")
    # Adding and subtracting the position rounds as the original does.
    moved = pose[..., :3] + (start @ motion[..., :3, None])[..., 0] - pose[..., :3]
    turned = start @ to_matrix(motion[..., 3:6], "euler_xyz")
    turn = from_matrix(turned, "euler_xyz") - pose[..., 3:6]
    return np.concatenate([moved, wrap(turn) if euler_wrap else turn], axis=-1)


def _euler(context: Context) -> NDArray[np.float64]:
    euler: NDArray[np.float64] = context.request.obs["robot_obs"][3:6]
    return euler


def _transposed(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrices.swapaxes(-1, -2)


def _joined(
    matrices: NDArray[np.float64], actions: NDArray[np.float64], turn: NDArray[Any], shape: str
) -> NDArray[np.float64]:
    """Actions with a turned translation and new angles."""
    choice("shape", shape, SHAPES)
    moved = (matrices @ actions[..., :3, None])[..., 0]
    result = np.concatenate([moved, turn, actions[..., 6:]], axis=-1)
    if shape == "flattened" and result.ndim == 4:
        return result.reshape(result.shape[0], -1, 1, result.shape[-1])
    return result
