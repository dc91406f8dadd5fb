"""Points in the world from depth images, for policies that see in three dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calvin_eval.errors import UsageError


def point_cloud(
    depth: ArrayLike, intrinsic: ArrayLike, extrinsic: ArrayLike
) -> NDArray[np.float64]:
    """The point of the world that every pixel of a depth image shows.

    Args:
        depth: (H, W) metres along the camera's viewing direction, as `depth_obs` has it.
        intrinsic: (3, 3) of the camera.
        extrinsic: (4, 4) from the world to the camera.

    Returns:
        (H, W, 3) float64, metres in the world's frame, that of `robot_obs` and `scene_obs`.

    Raises:
        UsageError: arrays of other shapes.
    """
    distance = np.asarray(depth, dtype=np.float64)
    inner, outer = np.asarray(intrinsic, np.float64), np.asarray(extrinsic, np.float64)
    if distance.ndim != 2 or inner.shape != (3, 3) or outer.shape != (4, 4):
        raise UsageError(
            "expected depth (H, W), intrinsic (3, 3) and extrinsic (4, 4), found "
            f"{distance.shape}, {inner.shape} and {outer.shape}"
        )
    rows, columns = np.indices(distance.shape)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    before = pixels @ np.linalg.inv(inner).T * distance[..., None]
    turn, shift = outer[:3, :3], outer[:3, 3]
    points: NDArray[np.float64] = (before - shift) @ turn  # a rotation's inverse is its transpose
    return points


def point_clouds(obs: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The points of every depth image of an observation that has the cameras' matrices.

    Args:
        obs: of a policy whose requirements have `depth` and `matrices`, with images in the size
            in which they were drawn: a stage that resizes or crops them makes the matrices wrong.

    Returns:
        By camera (H, W, 3) float64, see `point_cloud`.

    Raises:
        UsageError: the observation has no matrices.
    """
    cameras = obs.get("cameras")
    if cameras is None:
        raise UsageError(
            "expected an observation with cameras: ask for requirements.matrices=True and depth"
        )
    return {
        name.removeprefix("depth_"): point_cloud(image, **cameras[name.removeprefix("depth_")])
        for name, image in obs["depth_obs"].items()
    }
