"""Ways in which an action may have been meant, and how well each agrees with demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from operator import gt
from typing import TypeAlias

import numpy as np

from calvin_eval.wrappers.check.commands import Flags, Indices, Numbers
from calvin_eval.wrappers.check.demonstrations import Pairs
from calvin_eval.wrappers.check.reference import ROTATION_LIMIT
from calvin_eval.wrappers.stages.frames import compose_state_relative, tcp_to_world, world_to_tcp
from calvin_eval.wrappers.stages.rotations import from_matrix, to_matrix

LEAST_CORRELATION = 0.4
"""A way of reading the actions that fits less well explains nothing."""

_UNEXPLAINED = 0.6
"""A better way leaves at most this share of the variance that the present one leaves."""

_STRONG, _TIMES = 0.5, 1.4
"""A noisy policy leaves much unexplained whatever it means: there, so much more counts as well."""

_INFORMATIVE = 0.02
"""Standard deviation from which a demonstrated column says something."""

ANGLES, INTRINSIC = "euler_xyz", "euler_xyz_intrinsic"
"""CALVIN's own euler angles, and the other order, in which RoboVLMs reads them."""

_TRUE = "policy.actions.state_relative.euler_wrap=true"
_ROBOVLMS = "policy.actions.tcp_to_world={}"
_NOT_TRUE = "policy.actions.state_relative=null"
_NOT_ROBOVLMS = "policy.actions.tcp_to_world=null"
_TURNED = "they were turned out of the frame of the gripper (tcp), though they were in the world's"

Repair: TypeAlias = Callable[[Numbers, Pairs], Numbers]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypothesis:
    """One way to read three columns.

    Attributes:
        code: a name for programs.
        means: what is wrong if it holds, as the end of a sentence.
        remedy: what would repair it.
        repair: columns (n, 3) as they should have been.
    """

    code: str
    means: str
    remedy: str
    repair: Repair


def fit(x: Numbers, y: Numbers) -> float:
    """Correlation of (n, 3) columns, pooled over those that the demonstrations use; 0 if none."""
    used = y.std(axis=0) > _INFORMATIVE
    if not used.any() or len(x) < 2:
        return 0.0
    a, b = (columns[:, used] - columns[:, used].mean(axis=0) for columns in (x, y))
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-12 else 0.0


def clearly_better(new: float, old: float) -> bool:
    """Whether a correlation is another matter than the one that it is compared with."""
    if new < LEAST_CORRELATION:
        return False
    explains = 1 - new**2 <= _UNEXPLAINED * (1 - max(old, 0.0) ** 2)
    return explains or (new >= _STRONG and new >= _TIMES * old)


def halves(episode: Indices) -> tuple[Flags, Flags]:
    """Every other demonstration and the rest; of a single one, its two halves."""
    odd = episode % 2 == 1
    if not odd.any():
        odd = np.arange(len(episode)) >= len(episode) // 2
    return odd, ~odd


def best_reading(
    x: Numbers,
    y: Numbers,
    pairs: Pairs,
    readings: Sequence[Hypothesis],
    suspected: bool = False,
) -> tuple[Hypothesis | None, float]:
    """The first reading that is clearly better than the present one, in both halves of the data.

    Args:
        x: (n, 3) predicted columns.
        y: (n, 3) demonstrated ones.
        pairs: what they come from.
        readings: simple ones first; a later one has to be clearly better than all before it.
        suspected: whether there is other evidence for the readings, so that better will do.

    Returns:
        None where the actions are best read as they are; and the correlation of the best.
    """
    parts = [np.ones(len(x), bool), *halves(pairs.episode)]
    best, scores = None, [fit(x[part], y[part]) for part in parts]
    for reading in readings:
        repaired = reading.repair(x, pairs)
        if not np.isfinite(repaired).all():
            continue
        new = [fit(repaired[part], y[part]) for part in parts]
        if all(map(gt if suspected else clearly_better, new, scores)):
            best, scores = reading, new
    return best, scores[0]


def position_readings() -> list[Hypothesis]:
    """What positions may have been meant as."""
    tcp = "they are given in the frame of the gripper (tcp), the simulator expects the world's"
    other = "the gripper's frame was made with the other order of euler angles"
    return [
        Hypothesis(code="tcp-frame", means=tcp, remedy=_TRUE, repair=_turn(ANGLES)),
        Hypothesis(code="tcp-frame", means=tcp, remedy=_ROBOVLMS, repair=_turn(INTRINSIC)),
        Hypothesis(code="tcp-frame", means=_TURNED, remedy=_NOT_TRUE, repair=_turn_back(ANGLES)),
        Hypothesis(
            code="tcp-frame", means=_TURNED, remedy=_NOT_ROBOVLMS, repair=_turn_back(INTRINSIC)
        ),
        Hypothesis(
            code="euler-order",
            means=other,
            remedy=_TRUE,
            repair=_turn(ANGLES, _turn_back(INTRINSIC)),
        ),
        Hypothesis(
            code="euler-order",
            means=other,
            remedy=_ROBOVLMS,
            repair=_turn(INTRINSIC, _turn_back(ANGLES)),
        ),
        *_orders(0),
    ]


def rotation_readings() -> list[Hypothesis]:
    """What rotations may have been meant as."""
    tcp = "they are given in the frame of the gripper (tcp), the simulator expects differences of "
    tcp += "the world's euler angles"
    return [
        *_orders(3),
        Hypothesis(code="tcp-frame", means=tcp, remedy=_TRUE, repair=_compose),
        Hypothesis(code="tcp-frame", means=tcp, remedy=_ROBOVLMS, repair=_compose_robovlms),
        Hypothesis(code="tcp-frame", means=_TURNED, remedy=_NOT_TRUE, repair=_take_apart),
        Hypothesis(
            code="tcp-frame", means=_TURNED, remedy=_NOT_ROBOVLMS, repair=_take_apart_robovlms
        ),
    ]


def _orders(first: int) -> list[Hypothesis]:
    """The other five orders of the three columns from `first` on."""
    found = []
    for order in list(permutations(range(3)))[1:]:
        name = "".join("xyz"[axis] for axis in order)
        take = list(range(7))
        take[first : first + 3] = [first + int(column) for column in np.argsort(order)]
        listed = ",".join(map(str, take))
        found.append(
            Hypothesis(
                code="axis-order",
                means=f"their columns are in the order {name}, the simulator expects xyz",
                remedy=f"policy.actions.columns.take=[{listed}]",
                repair=_reorder(np.argsort(order)),
            )
        )
    return found


def _reorder(columns: Indices) -> Repair:
    return lambda x, pairs: x[:, columns]


def _same(x: Numbers, pairs: Pairs) -> Numbers:
    return x


def _turn(angles: str, first: Repair = _same) -> Repair:
    """From the gripper's frame to the world's."""
    return lambda x, pairs: _apply(_frame(pairs, angles), first(x, pairs))


def _turn_back(angles: str) -> Repair:
    """From the world's frame to the gripper's."""
    return lambda x, pairs: _apply(_frame(pairs, angles).swapaxes(1, 2), x)


def _frame(pairs: Pairs, angles: str) -> Numbers:
    return to_matrix(pairs.decided[:, 3:6], angles)


def _apply(matrices: Numbers, vectors: Numbers) -> Numbers:
    turned: Numbers = np.einsum("nij,nj->ni", matrices, vectors)
    return turned


def _compose(x: Numbers, pairs: Pairs) -> Numbers:
    """A rotation in the gripper's frame as the change of euler angles that it makes."""
    motion = np.column_stack([np.zeros_like(x), ROTATION_LIMIT * x])
    composed = compose_state_relative(motion, pairs.decided[:, :6], euler_wrap=True)
    return composed[:, 3:6] / ROTATION_LIMIT


def _compose_robovlms(x: Numbers, pairs: Pairs) -> Numbers:
    actions = np.column_stack([np.zeros_like(x), x, np.ones(len(x))])
    return tcp_to_world(actions, pairs.decided[:, 3:6])[:, 3:6]


def _take_apart(x: Numbers, pairs: Pairs) -> Numbers:
    """The inverse of `_compose`."""
    before = _frame(pairs, ANGLES)
    after = to_matrix(pairs.decided[:, 3:6] + ROTATION_LIMIT * x, ANGLES)
    return from_matrix(before.swapaxes(1, 2) @ after, ANGLES) / ROTATION_LIMIT


def _take_apart_robovlms(x: Numbers, pairs: Pairs) -> Numbers:
    actions = np.column_stack([np.zeros_like(x), x, np.ones(len(x))])
    return world_to_tcp(actions, pairs.decided[:, 3:6])[:, 3:6]
