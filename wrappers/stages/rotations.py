"""Rotations in the forms in which networks and CALVIN write them.

SciPy does the mathematics; it is imported on first use because it takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

REPRESENTATIONS: Mapping[str, int] = {
    "euler_xyz": 3,
    "euler_xyz_intrinsic": 3,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "axis_angle": 3,
    "rotation_6d_columns": 6,
    "rotation_6d_rows": 6,
    "rotation_6d_interleaved": 6,
}
"""How many numbers each form has. All angles are radians.

- `euler_xyz`: about the fixed axes x, y, z: CALVIN's and Bullet's angles, R = Rz Ry Rx.
- `euler_xyz_intrinsic`: about the moving axes, R = Rx Ry Rz (PyTorch3D's "XYZ").
- `quaternion_xyzw`: scalar last (Bullet, SciPy); `quaternion_wxyz`: scalar first (PyTorch3D).
- `axis_angle`: unit axis times angle.
- `rotation_6d_columns`: the first column of the matrix, then the second.
- `rotation_6d_rows`: its first row, then its second (PyTorch3D).
- `rotation_6d_interleaved`: its first two columns read row by row (X-VLA).
"""

_EULER: Mapping[str, Literal["xyz", "XYZ"]] = {"euler_xyz": "xyz", "euler_xyz_intrinsic": "XYZ"}


def convert(values: NDArray[Any], source: str, target: str) -> NDArray[np.float64]:
    """Write rotations in another form.

    Reordering a quaternion, or keeping a form, changes no bit. An Euler angle y of +-pi/2 leaves
    the others undetermined; the third is then zero.

    Args:
        values: (..., d) in the form `source`; not necessarily of unit length or orthogonal.
        source: a name in `REPRESENTATIONS`.
        target: likewise.

    Returns:
        (..., d') float64.

    Raises:
        PolicyError: values that are no rotation: not finite, or of zero length.
    """
    values = np.asarray(values, np.float64)
    if source == target:
        return values.copy()
    if {source, target} == {"quaternion_xyzw", "quaternion_wxyz"}:
        return np.roll(values, 1 if target == "quaternion_wxyz" else -1, axis=-1)
    flat = _write(_read(values, source), target)
    return flat.reshape(*values.shape[:-1], REPRESENTATIONS[target])


def to_matrix(values: NDArray[Any], source: str) -> NDArray[np.float64]:
    """Rotation matrices (..., 3, 3) float64 of values (..., d) in the form `source`."""
    values = np.asarray(values, np.float64)
    matrices: NDArray[np.float64] = _read(values, source).as_matrix()
    return matrices.reshape(*values.shape[:-1], 3, 3)


def from_matrix(matrices: NDArray[Any], target: str) -> NDArray[np.float64]:
    """Values (..., d) float64 in the form `target` of rotation matrices (..., 3, 3)."""
    flat = _write(_rotation().from_matrix(np.reshape(matrices, (-1, 3, 3))), target)
    return flat.reshape(*np.shape(matrices)[:-2], REPRESENTATIONS[target])


def wrap(angles: NDArray[Any]) -> NDArray[Any]:
    """Angles shifted by whole turns into [-pi, pi]; those that lie there keep every bit."""
    wrapped: NDArray[Any] = angles - 2 * np.pi * np.rint(angles / (2 * np.pi))
    return wrapped


def _rotation() -> type[Rotation]:
    from scipy.spatial.transform import Rotation

    return Rotation


def _read(values: NDArray[np.float64], source: str) -> Rotation:
    flat = values.reshape(-1, REPRESENTATIONS[source])
    rotation = _rotation()
    if source in _EULER:
        return rotation.from_euler(_EULER[source], _finite(flat, flat, source))
    if source == "axis_angle":
        return rotation.from_rotvec(_finite(flat, flat, source))
    if source.startswith("quaternion"):
        flat = flat if source == "quaternion_xyzw" else np.roll(flat, -1, axis=-1)
        return rotation.from_quat(_unit(flat, flat, source))
    return rotation.from_matrix(_orthogonal(flat, source))


def _write(rotation: Rotation, target: str) -> NDArray[np.float64]:
    if target in _EULER:
        return rotation.as_euler(_EULER[target])
    if target == "axis_angle":
        return rotation.as_rotvec()
    if target == "quaternion_xyzw":
        return rotation.as_quat()
    if target == "quaternion_wxyz":
        return np.roll(rotation.as_quat(), 1, axis=-1)
    matrices = rotation.as_matrix()
    if target == "rotation_6d_rows":
        return matrices[:, :2, :].reshape(-1, 6)
    columns = matrices[:, :, :2]
    if target == "rotation_6d_columns":
        columns = columns.swapaxes(1, 2)
    return columns.reshape(-1, 6)


def _orthogonal(flat: NDArray[np.float64], source: str) -> NDArray[np.float64]:
    """Matrices (n, 3, 3) whose first two columns (or rows) are made unit and orthogonal."""
    if source == "rotation_6d_interleaved":
        first, second = flat[:, 0::2], flat[:, 1::2]
    else:
        first, second = flat[:, :3], flat[:, 3:]
    first = _unit(first, flat, source)
    second = _unit(second - (first * second).sum(-1, keepdims=True) * first, flat, source)
    axis = 1 if source == "rotation_6d_rows" else 2
    return np.stack([first, second, np.cross(first, second)], axis=axis)


def _unit(
    vectors: NDArray[np.float64], given: NDArray[np.float64], source: str
) -> NDArray[np.float64]:
    """The vectors (n, d) with length 1."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Parallel columns leave a rest of rounding size, whose direction means nothing.
    wrong = ~(length > 1e-9)
    return _finite(
        np.divide(vectors, length, where=~wrong, out=np.full_like(vectors, np.nan)), given, source
    )


def _finite(
    values: NDArray[np.float64], given: NDArray[np.float64], source: str
) -> NDArray[np.float64]:
    wrong = ~np.isfinite(values).all(axis=-1)
    if wrong.any():
        raise PolicyError(f"expected a rotation as {source}, found {given[wrong][0].tolist()}.")
    return values
