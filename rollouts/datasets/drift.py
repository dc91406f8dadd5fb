"""How far a world that is simulated again is from the recorded one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

MEASURES: Final[Mapping[str, str]] = {
    "robot_position": "m",
    "robot_orientation": "rad",
    "block_position": "m",
    "block_orientation": "rad",
    "table": "m",
}
"""What is measured after every step, and its unit."""

_BLOCKS: Final = slice(6, 24)
_DOORS: Final = slice(0, 2)  # slide and drawer


def distances(
    found: Mapping[str, NDArray[Any]], recorded: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Distances between two states, by the names of `MEASURES`.

    Args:
        found: `robot_obs` (15,) and `scene_obs` (24,).
        recorded: the same.

    Returns:
        Between the two tcp poses the distance in metres and the angle in radians; the largest of
        both among the blocks; the largest difference of slide and drawer in metres.
    """
    robots = [np.asarray(state["robot_obs"], float) for state in (found, recorded)]
    scenes = [np.asarray(state["scene_obs"], float) for state in (found, recorded)]
    blocks = [scene[_BLOCKS].reshape(-1, 6) for scene in scenes]
    return {
        "robot_position": float(np.linalg.norm(robots[0][:3] - robots[1][:3])),
        "robot_orientation": float(_angles(robots[0][None, 3:6], robots[1][None, 3:6])[0]),
        "block_position": float(np.linalg.norm(blocks[0][:, :3] - blocks[1][:, :3], axis=1).max()),
        "block_orientation": float(_angles(blocks[0][:, 3:], blocks[1][:, 3:]).max()),
        "table": float(np.abs(scenes[0][_DOORS] - scenes[1][_DOORS]).max()),
    }


def _angles(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in radians between orientations (n, 3), Bullet's euler angles about x, y and z."""
    turned = Rotation.from_euler("xyz", a).inv() * Rotation.from_euler("xyz", b)
    return np.asarray(turned.magnitude(), np.float64)


def by_step(
    series: Sequence[Mapping[str, Sequence[float]]], steps: Sequence[int]
) -> list[dict[str, Any]]:
    """Median, 95th percentile and largest distance over many series, at some steps.

    Args:
        series: by measure, the distance after every step; index 0 is the start.
        steps: at which to look; those that no series reaches are left out.
    """
    rows: list[dict[str, Any]] = []
    for step in steps:
        reaching = [one for one in series if len(one["robot_position"]) > step]
        if not reaching:
            continue
        row: dict[str, Any] = {"step": step, "series": len(reaching)}
        for name in MEASURES:
            values = np.array([one[name][step] for one in reaching])
            row[name] = {
                "median": float(np.median(values)),
                "p95": float(np.quantile(values, 0.95)),
                "max": float(values.max()),
            }
        rows.append(row)
    return rows
