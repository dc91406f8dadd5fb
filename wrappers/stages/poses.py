"""Absolute poses: the form of their rotations, from and to differences, for the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import choice, chunk_array
from calvin_eval.wrappers.stages.rotations import (
    REPRESENTATIONS,
    convert,
    from_matrix,
    to_matrix,
    wrap,
)

STARTS = ("commanded", "measured")
ROWS = ("running", "fixed")
FRAMES = ("sum", "world", "tcp")


@dataclass(frozen=True, kw_only=True)
class Orientation(ActionStage):
    """Write the rotation between position and gripper in another form.

    Attributes:
        source: the network's form, one of `rotations.REPRESENTATIONS`: X-VLA
            "rotation_6d_interleaved", 3D Diffuser Actor "quaternion_wxyz", vla-eval's absolute
            mode "axis_angle".
        target: the form that later stages want; `absolute` takes "euler_xyz" and
            "quaternion_xyzw", all others "euler_xyz".
    """

    source: str
    target: str = "euler_xyz"

    def __post_init__(self) -> None:
        choice("source of orientation", self.source, REPRESENTATIONS)
        choice("target of orientation", self.target, REPRESENTATIONS)

    def __call__(self, actions: Actions, context: Context) -> NDArray[np.float64]:
        """From (k, 3 + d + 1) to (k, 3 + d' + 1) float64."""
        width = 3 + REPRESENTATIONS[self.source] + 1
        values = chunk_array("orientation", actions, columns=(width,)).astype(np.float64)
        rotation = convert(values[:, 3:-1], self.source, self.target)
        return np.concatenate([values[:, :3], rotation, values[:, -1:]], axis=1)


@dataclass(frozen=True, kw_only=True)
class Accumulate(ActionStage):
    """Add differences (metres and radians) onto a pose, which makes absolute poses of them.

    Put it behind `execute`: it takes every action that it sees for executed.

    Attributes:
        start: the pose that a chunk's differences are added to: "commanded", the last pose of
            the chunk before (the measured pose at the start of a subtask; vla-eval), or
            "measured", the pose at the decision (3D Diffuser Actor).
        rows: "running" adds every action to the one before it, "fixed" all to the start.
        frame: "sum" adds positions and, one by one, Euler angles, as CALVIN does itself; "world"
            adds positions and turns about the world's axes; "tcp" moves and turns in the frame
            of the pose added to.
    """

    start: str = "commanded"
    rows: str = "running"
    frame: str = "sum"

    def __post_init__(self) -> None:
        choice("start of accumulate", self.start, STARTS)
        choice("rows of accumulate", self.rows, ROWS)
        choice("frame of accumulate", self.frame, FRAMES)

    def __call__(self, actions: Actions, context: Context) -> NDArray[np.float64]:
        """From differences (k, 7) to poses (k, 7) float64, Euler angles in [-pi, pi]."""
        values = chunk_array("accumulate", actions, columns=(7,)).astype(np.float64)
        pose = _base(self.start, context)
        result = values.copy()
        for row, action in enumerate(values):
            result[row, :6] = self._moved(pose, action)
            if self.rows == "running":
                pose = result[row, :6]
        context.memory["pose"] = result[-1, :6].copy()
        return result

    def _moved(self, pose: NDArray[np.float64], action: NDArray[np.float64]) -> NDArray[np.float64]:
        shift, angles = action[:3], pose[3:6] + action[3:6]
        if self.frame != "sum":
            before, turn = to_matrix(pose[3:6], "euler_xyz"), to_matrix(action[3:6], "euler_xyz")
            shift = before @ shift if self.frame == "tcp" else shift
            turned = before @ turn if self.frame == "tcp" else turn @ before
            angles = from_matrix(turned, "euler_xyz")
        return np.concatenate([pose[:3] + shift, wrap(angles)])


@dataclass(frozen=True, kw_only=True)
class Relative(ActionStage):
    """From absolute poses to differences, for networks that predict poses to be run relatively.

    `scale` and `clip` behind it make CALVIN's relative actions of them: what the data set's
    `rel_actions` are to its `actions`. Put it behind `execute`.

    Attributes:
        start: what the first pose of a chunk is compared with: "measured", the pose at the
            decision, or "commanded", the last pose of the chunk before (the measured pose at the
            start of a subtask). Later poses are compared with the one before them.
    """

    start: str = "measured"

    def __post_init__(self) -> None:
        choice("start of relative", self.start, STARTS)

    def __call__(self, actions: Actions, context: Context) -> NDArray[np.float64]:
        """From poses (k, 7) to differences (k, 7) float64, angles in [-pi, pi]."""
        values = chunk_array("relative", actions, columns=(7,)).astype(np.float64)
        before = np.concatenate([_base(self.start, context)[None], values[:-1, :6]])
        context.memory["pose"] = values[-1, :6].copy()
        result = values.copy()
        result[:, :6] -= before
        result[:, 3:6] = wrap(result[:, 3:6])
        return result


@dataclass(frozen=True)
class Absolute(ActionStage):
    """Hand poses to CALVIN as absolute actions; the last stage of a pipeline.

    In come position, "euler_xyz" or "quaternion_xyzw" (distinguished by the width) and the gripper
    command -1 or 1.
    """

    def __call__(self, actions: Actions, context: Context) -> list[tuple[Any, Any, float]]:
        """From (k, 7) or (k, 8) to k tuples of position (3,), orientation and gripper."""
        values = chunk_array("absolute", actions, columns=(7, 8))
        return [(row[:3].copy(), row[3:-1].copy(), float(row[-1])) for row in values]


def _base(start: str, context: Context) -> NDArray[np.float64]:
    """The pose (6,) that a chunk starts from."""
    measured: NDArray[np.float64] = context.request.obs["robot_obs"][:6]
    pose: NDArray[np.float64] = context.memory.get("pose", measured)
    return measured if start == "measured" else pose
