"""What actions of successful demonstrations look like, and where suspicion begins.

Facts of the benchmark: CALVIN's `rel_actions` are displacements of at most 0.02 m and 0.05 rad per
axis and step, divided by these limits, so that no number is beyond 1 (CALVIN, dataset README).

Measured here on a scripted expert's 600 subtasks (36,065 actions) in scene D, in windows of 200 or
more actions from the start of each of 120 chains, smallest to largest value:

| statistic | measured | suspicious |
| --- | --- | --- |
| 99 % quantile of positions | 1.00-1.00 | below 0.06 |
| 99 % quantile of rotations, whole chains | 0.58-1.00 | below 0.055 |
| share at the limit of 1, of positions above 0.01 | 0.11-0.28 | above 0.7 |
| share at the limit of 1, of all rotations | 0.00-0.18 | above 0.7 |
| share of steps that turn an axis round | 0.01-0.05 | above 0.4 |
| farthest commanded displacement | 0.20-0.36 m | above 1 m |
| farthest commanded rotation | 0.08-1.97 rad | above 6.28 rad |
| windows in which the gripper never moves | 0 of 120 | any |
"""

from __future__ import annotations

POSITION_LIMIT, ROTATION_LIMIT = 0.02, 0.05
"""Metres and radians that 1 means; their inverses are the factors x50 and x20."""

LEAST_ACTIONS = 200
"""Fewer say nothing: a subtask may be a single motion."""

LEAST_FOR_ROTATION = 1000
"""The first subtasks of a chain may need no rotation at all."""

METRES = 0.06
"""Positions in metres stay below 0.02; three times that is still far from any demonstration."""

RADIANS = 0.055
"""Rotations in radians stay below 0.05."""

BEYOND = 3.0
"""A median beyond it is no relative action: demonstrations never exceed 1."""

STILL, AT_LIMIT, SATURATED_SHARE = 0.01, 0.999, 0.7
MOVING, TURNING_SHARE = 0.1, 0.4
FARTHEST_METRES, FARTHEST_RADIANS = 1.0, 6.283

WORKSPACE = ((-0.6, 0.6), (-0.6, 0.4), (0.2, 1.0))
"""x, y, z in metres; measured after subtasks: -0.33..0.35, -0.37..0.10, 0.37..0.59."""

FULL_TURN = 125.66
"""2 pi radians in units of 0.05 rad: an euler angle that jumped from pi to -pi."""
