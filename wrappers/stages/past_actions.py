"""Executed actions as rows of numbers, for windows of the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Executed

KEYS = ("actions", "raw_actions")
"""Executed actions as the world got them, and as the network returned them."""

Row = NDArray[np.float64]


def executed_row(done: Executed, key: str) -> Row | None:
    """One executed action as a row (d,) of float64; None where there is none of that kind.

    A relative action has 7 numbers; of an absolute one position, orientation and gripper follow
    each other in 7 or 8.

    Args:
        done: the action.
        key: one of `KEYS`.
    """
    action = done.sent if key == "actions" else done.raw
    if action is None:
        return None
    if isinstance(action, Mapping):
        action = action["action"]
    if isinstance(action, tuple | list) and len(action) == 3:
        return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in action])
    return np.array(action, np.float64).ravel()


def executed_before(executed: Sequence[Executed | None], back: int) -> Executed | None:
    """The action that led to the frame `back` frames ago (0: the present), if there is one."""
    return executed[-1 - back] if back < len(executed) else None


def stacked(rows: Sequence[Row | None], columns: int, key: str) -> tuple[Row, NDArray[np.bool_]]:
    """Rows as an array (T, d) with zeros where there is none, and which are real (T,) bool.

    Args:
        rows: oldest first.
        columns: d, if no row is real.
        key: what messages call it.

    Raises:
        PolicyError: rows of different lengths.
    """
    lengths = sorted({len(row) for row in rows if row is not None})
    if len(lengths) > 1:
        raise PolicyError(
            f"history: expected {key} of one length, found {lengths}: relative and absolute "
            "actions cannot be stacked"
        )
    blank = np.zeros(lengths[0] if lengths else columns)
    real = np.array([row is not None for row in rows], bool)
    filled = [blank if row is None else row for row in rows]
    return np.array(filled, np.float64).reshape(len(rows), len(blank)), real
