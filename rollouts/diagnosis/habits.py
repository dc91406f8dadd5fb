"""What a policy does all the time, from the rows of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.results.diagnosis import Habits
from calvin_eval.rollouts.diagnosis.watching import TABLE, Trace
from calvin_eval.sim.actions import parse_action
from calvin_eval.sim.packs import RobotSpec

DIGITS: Final = 4
"""Decimals of the numbers in a diagnosis: far coarser than what machines may differ by."""

_LIMIT: Final = 0.999  # of a component of a relative action, whose limit is 1
_AT_REST: Final = 1e-4  # metres a step
_MOVING: Final = 1e-3  # metres a step
_BACK: Final = -0.5  # cosine between two steps
_AT_LIMIT: Final = 0.02  # radians


def find_habits(trace: Trace, robot: RobotSpec) -> Habits:
    """The habits that a failed subtask shows.

    Args:
        trace: the subtask.
        robot: has the joints' limits.
    """
    ways = np.diff(trace.positions, axis=0)
    speeds = np.linalg.norm(ways, axis=1)
    targets = set(trace.meter.objects)
    contacts = [i for i, names in enumerate(trace.touched) if names & targets]
    hits = [TABLE in names for names in trace.touched]
    return Habits(
        saturated=_saturated(trace.actions),
        frozen=_share(speeds < _AT_REST),
        reversals=_reversals(ways, speeds),
        gripper_switches=int(np.count_nonzero(np.diff(trace.command))),
        joint_limit=_joint_limit(trace.joints, robot),
        table_hits=sum(now and not before for before, now in pairwise(hits)),
        first_contact=contacts[0] if contacts else None,
        path=round(float(speeds.sum()), DIGITS),
    )


def _share(mask: Any) -> float:
    """Of states or steps, those for which the mask (T,) holds."""
    return round(float(mask.mean()), DIGITS) if len(mask) else 0.0


def _saturated(actions: Sequence[Any]) -> float | None:
    parsed = [parse_action(action) for action in actions]
    if any(one.kind != "cartesian_rel" for one in parsed):
        return None
    largest = [
        max(float(np.abs(one.position).max()), float(np.abs(one.orientation).max()))  # type: ignore[arg-type]
        for one in parsed
    ]
    return _share(np.array(largest) >= _LIMIT)


def _reversals(ways: NDArray[np.float64], speeds: NDArray[np.float64]) -> float:
    """The share of steps that turn back against the step before, both of them of some length."""
    if len(ways) < 2:
        return 0.0
    fast = (speeds[:-1] > _MOVING) & (speeds[1:] > _MOVING)
    along = np.einsum("ij,ij->i", ways[:-1], ways[1:])
    return _share(fast & (along < _BACK * speeds[:-1] * speeds[1:]))


def _joint_limit(joints: NDArray[np.float64], robot: RobotSpec) -> float:
    low, high = np.array(robot.lower_limits), np.array(robot.upper_limits)
    near = (joints < low + _AT_LIMIT) | (joints > high - _AT_LIMIT)
    return _share(near.any(axis=1))
