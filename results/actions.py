"""The actions of a chain as compact files, so that anybody can simulate it again.

`actions/NNNN.npz` holds, per subtask J that took a step, `subJ_actions` and `subJ_kinds`. Actions
are stored in the floating-point type in which the policy gave them, which decides the last bits of
the motion. Rows of different kinds (an absolute pose has 7 or 8 numbers) are padded with NaN to a
common width; `kinds` has one code per row, or a single one if all rows are alike.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RunFolderError
from calvin_eval.foreign.arrays import read_arrays

FOLDER = "actions"

# Code -> numbers in a row. The codes are part of the file format: never renumber them.
_RELATIVE, _EULER, _QUATERNION, _JOINT_RELATIVE, _JOINT = range(5)
_WIDTHS = (7, 7, 8, 8, 8)


def encode_actions(subtasks: Sequence[Sequence[Any]]) -> bytes:
    """The file of one chain.

    Args:
        subtasks: per subtask the actions that were executed, in any form the simulator accepts.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for position, actions in enumerate(subtasks):
        if not actions:
            continue
        rows, kinds = zip(*map(_row, actions), strict=True)
        width = max(map(len, rows))
        dtype = np.result_type(*{row.dtype for row in rows})
        table = np.full((len(rows), width), np.nan, dtype)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        codes = sorted(set(kinds)) if len(set(kinds)) == 1 else kinds
        arrays[f"sub{position}_actions"] = table
        arrays[f"sub{position}_kinds"] = np.array(codes, np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode_actions(data: bytes, where: str) -> dict[int, list[Any]]:
    """The inverse: per position the environment actions.

    Args:
        data: a file's content.
        where: how an error calls the file.

    Raises:
        RunFolderError: the content is damaged or of another format.
    """
    try:
        arrays = read_arrays(data)
        positions = sorted(int(n[3:-8]) for n in arrays if n.endswith("_actions"))
        return {position: _actions(arrays, position) for position in positions}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RunFolderError(f"{where} is damaged: {error}") from error


def _actions(arrays: Mapping[str, NDArray[Any]], position: int) -> list[Any]:
    table, kinds = arrays[f"sub{position}_actions"], arrays[f"sub{position}_kinds"]
    codes = np.broadcast_to(kinds, len(table))
    return [_action(row[: _WIDTHS[code]], code) for row, code in zip(table, codes, strict=True)]


def _row(action: Any) -> tuple[NDArray[Any], int]:
    """An action as numbers and their kind."""
    if isinstance(action, Mapping):
        kind, value = action["type"], action["action"]
        if kind == "cartesian_abs":
            if len(value) == 3:
                return _row(tuple(value))
            return _floats(value), _EULER if len(value) == 7 else _QUATERNION
        codes = {"cartesian_rel": _RELATIVE, "joint_rel": _JOINT_RELATIVE, "joint_abs": _JOINT}
        return _floats(value), codes[kind]
    if isinstance(action, tuple | list) and len(action) == 3:
        position, orientation, gripper = action
        row = _floats([*position, *orientation, np.asarray(gripper).item()])
        return row, _EULER if len(orientation) == 3 else _QUATERNION
    return _floats(action), _RELATIVE


def _floats(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _action(row: NDArray[Any], code: int) -> Any:
    if code == _RELATIVE:
        return row
    if code in (_EULER, _QUATERNION):
        return row[:3], row[3:-1], float(row[-1])
    return {"type": "joint_rel" if code == _JOINT_RELATIVE else "joint_abs", "action": row}
