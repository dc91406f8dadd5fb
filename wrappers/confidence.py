"""How sure a network is of an action, from what it returned: numbers from 0 (guessing) to 1.

None of them is calibrated: 0.9 does not mean that nine of ten such actions are right. They tell
actions of one policy apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calvin_eval.errors import PolicyError


def gripper_margin(opening: float) -> float:
    """How far the probability of open lies from even: |2 p - 1|.

    It is 1 for a gripper that was thresholded before, which says nothing of the network.
    """
    return float(np.clip(abs(2 * opening - 1), 0, 1))


def token_confidence(probabilities: ArrayLike) -> float:
    """The geometric mean of the probabilities of an action's words, whatever their number.

    Args:
        probabilities: (d,) of the words that were chosen, each from 0 to 1.

    Raises:
        PolicyError: they are none.
    """
    given = np.asarray(probabilities, np.float64).ravel()
    if not given.size or not ((given >= 0) & (given <= 1)).all():
        raise PolicyError(f"expected probabilities from 0 to 1, found {given.tolist()}")
    return float(np.exp(np.log(np.maximum(given, 1e-300)).mean()))


def spread_confidence(predictions: Sequence[Any], low: float, high: float) -> float:
    """One less the spread of several predictions of the same action, in halves of the range.

    Args:
        predictions: m arms (6,); one alone has no spread, and gives 1.
        low: least arm number.
        high: largest arm number.

    Returns:
        1 where all agree, 0 where the standard deviation, the mean over the six numbers, is half
        of the range or more: the largest that numbers in the range can have.
    """
    rows = np.asarray(predictions, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise PolicyError(f"expected predictions (m, d), found shape {rows.shape}")
    return float(np.clip(1 - rows.std(axis=0).mean() / (0.5 * (high - low)), 0, 1))
