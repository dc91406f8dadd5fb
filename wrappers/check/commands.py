"""Actions in any of CALVIN's forms as tables of numbers, without judging them.

The simulator refuses an action that cannot be meant; here the same action is evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.check.reference import POSITION_LIMIT, ROTATION_LIMIT
from calvin_eval.wrappers.stages.rotations import convert, wrap

Numbers: TypeAlias = "NDArray[np.float64]"
Indices: TypeAlias = "NDArray[np.int_]"
Flags: TypeAlias = "NDArray[np.bool_]"
Kind: TypeAlias = Literal["relative", "absolute", "joint"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Commands:
    """n actions of one kind.

    Attributes:
        kind: of all of them.
        position: (n, 3) metres, or units of 0.02 m when relative; empty (n, 0) for joints.
        orientation: (n, 3) euler angles in radians, or units of 0.05 rad when relative; (n, 4)
            quaternions xyzw; or joint values (n, 7).
        gripper: (n,).
    """

    kind: Kind
    position: Numbers
    orientation: Numbers
    gripper: Numbers

    def __len__(self) -> int:
        return len(self.gripper)

    @property
    def table(self) -> Numbers:
        """All numbers, (n, d)."""
        return np.column_stack([self.position, self.orientation, self.gripper])


def read_commands(actions: Sequence[Any]) -> Commands:
    """Actions as numbers; of actions of several kinds, those of the most frequent one.

    Raises:
        PolicyError: an action has none of the forms.
    """
    split = [_split(action) for action in actions]
    forms = Counter((kind, len(orientation)) for kind, _, orientation, _ in split)
    if not forms:
        return Commands(kind="relative", position=np.zeros((0, 3)),
                        orientation=np.zeros((0, 3)), gripper=np.zeros(0))  # fmt: skip
    kind, width = forms.most_common(1)[0][0]
    rows = [row for row in split if (row[0], len(row[2])) == (kind, width)]
    return Commands(
        kind=kind,
        position=np.array([row[1] for row in rows], np.float64),
        orientation=np.array([row[2] for row in rows], np.float64),
        gripper=np.array([row[3] for row in rows], np.float64),
    )


def as_relative(commands: Commands, robot_obs: Numbers) -> Numbers:
    """What absolute poses ask of the measured ones, as relative actions.

    Args:
        commands: n of them.
        robot_obs: (n, 15) when each of them was due.

    Returns:
        (n, 7); relative actions as they are.

    Raises:
        PolicyError: joint actions, for which there is nothing to compare.
    """
    if commands.kind == "relative":
        return commands.table
    if commands.kind == "joint":
        raise PolicyError("expected relative or absolute actions to check; found joint actions")
    position = (commands.position - robot_obs[:, :3]) / POSITION_LIMIT
    rotation = wrap(euler(commands.orientation) - robot_obs[:, 3:6]) / ROTATION_LIMIT
    return np.column_stack([position, rotation, commands.gripper])


def euler(orientation: Numbers) -> Numbers:
    """Euler angles xyz (n, 3) of euler angles or quaternions xyzw (n, 4)."""
    if orientation.shape[1] == 3:
        return orientation
    return convert(orientation, "quaternion_xyzw", "euler_xyz")


def _split(action: Any) -> tuple[Kind, Any, Any, float]:
    """Kind, position, orientation and gripper of one action."""
    name, value = ("", action)
    if isinstance(action, Mapping):
        name, value = str(action.get("type")), action.get("action")
    if isinstance(value, tuple | list) and len(value) == 3 and name in ("", "cartesian_abs"):
        position, orientation, gripper = (np.asarray(part, np.float64).ravel() for part in value)
        if len(position) == 3 and len(orientation) in (3, 4) and gripper.size == 1:
            return "absolute", position, orientation, float(gripper[0])
    else:
        numbers = np.asarray(value, np.float64).ravel()
        if name.startswith("joint") and len(numbers) == 8:
            return "joint", (), numbers[:7], float(numbers[7])
        absolute = name == "cartesian_abs"
        if len(numbers) == 7 or (absolute and len(numbers) == 8):
            kind: Kind = "absolute" if absolute else "relative"
            return kind, numbers[:3], numbers[3:-1], float(numbers[-1])
    raise PolicyError(
        "expected an action of 7 numbers, a pose (position, orientation, gripper), or a dict of "
        f"type and action; found {action!r}"
    )
