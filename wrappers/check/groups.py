"""Three columns that belong together, positions or rotations, compared with demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calvin_eval.wrappers.check import reference as usual
from calvin_eval.wrappers.check.commands import Flags, Numbers
from calvin_eval.wrappers.check.demonstrations import Pairs
from calvin_eval.wrappers.check.finding import Finding
from calvin_eval.wrappers.check.hypotheses import (
    LEAST_CORRELATION,
    Hypothesis,
    best_reading,
    fit,
    halves,
)
from calvin_eval.wrappers.check.statistics import at_limit

_POSE = 0.9
"""Correlation with the measured pose from which a column is one."""

_MIRRORED = -0.4
_TOLERANCE, _NEAR = 1.25, 1.6
_CLOSE_FIT = 0.95
"""Correlation of a policy that has these demonstrations by heart."""

_USED = 0.02
"""Standard deviation from which demonstrated columns say something."""

_OFFSET = 0.15
_OF_COURSE_SATURATED = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """What is particular to positions or to rotations.

    Attributes:
        name: position or rotation.
        columns: of an action.
        factor: by which the simulator's units exceed metres or radians.
        readings: what else the columns may have been meant as.
    """

    name: str
    columns: slice
    factor: int
    readings: Sequence[Hypothesis]


def compare_group(group: Group, pairs: Pairs, suspected: str = "") -> tuple[list[Finding], Numbers]:
    """Hold the columns of a group against the demonstrations.

    Args:
        group: which columns.
        pairs: the actions.
        suspected: remedy that another group of columns needs.

    Returns:
        Findings, and the columns (n, 3) as they should have been, but for their scale.
    """
    x, y = pairs.predicted[:, group.columns], pairs.demonstrated[:, group.columns]
    if y.std(axis=0).max() < _USED:
        return [], x
    early = list(_constant(group, x)) or list(_pose(group, x, y, pairs))
    if early:
        return early, x
    findings = []
    likely = [r for r in group.readings if suspected and r.remedy == suspected]
    reading, correlation = best_reading(x, y, pairs, likely or group.readings, bool(likely))
    if reading is not None:
        findings.append(_misread(group, reading, fit(x, y), correlation))
        x = reading.repair(x, pairs)
    mirrored = _mirrored(x, y, pairs)
    if mirrored.any():
        findings.append(_signs(group, mirrored))
        x = np.where(mirrored, -x, x)
    findings += _saturated(group, x, y)
    if not findings or findings[-1].code != f"{group.name}-saturated":
        findings += _scale(group, x, y, pairs.commands.kind)
    return findings, x


def _constant(group: Group, x: Numbers) -> Iterator[Finding]:
    if np.ptp(x, axis=0).max() < 1e-9:
        values = ", ".join(f"{number:.3g}" for number in x[0])
        yield Finding(
            code=f"{group.name}-constant",
            severity="error",
            sentence=f"{group.name}s are always ({values}) while demonstrations vary: the output "
            "does not depend on what the policy sees.",
        )


def _pose(group: Group, x: Numbers, y: Numbers, pairs: Pairs) -> Iterator[Finding]:
    """Absolute poses where motions are expected follow the pose and not the motion."""
    pose = fit(x, pairs.robot_obs[:, group.columns])
    if group.name == "position" and pose >= _POSE and pose > fit(x, y) + 0.3:
        yield Finding(
            code="pose-as-motion",
            severity="error",
            sentence=f"positions follow the arm's own position (correlation {pose:.2f}) and not "
            f"its demonstrated motion ({fit(x, y):.2f}): absolute poses are used as relative "
            "actions.",
            remedy="policy.actions.absolute={}",
        )


def _misread(group: Group, reading: Hypothesis, before: float, after: float) -> Finding:
    return Finding(
        code=f"{group.name}-{reading.code}",
        severity="error",
        sentence=f"{group.name}s fit the demonstrations better when read otherwise (correlation "
        f"{after:.2f} instead of {before:.2f}): {reading.means}.",
        remedy=reading.remedy,
    )


def _mirrored(x: Numbers, y: Numbers, pairs: Pairs) -> Flags:
    """Which columns do the opposite of the demonstrations, in both halves of them."""
    mirrored = np.zeros(3, bool)
    for axis in range(3):
        one = slice(axis, axis + 1)
        parts = [np.ones(len(x), bool), *halves(pairs.episode)]
        mirrored[axis] = all(fit(x[part, one], y[part, one]) < _MIRRORED for part in parts)
    return mirrored


def _signs(group: Group, mirrored: Flags) -> Finding:
    axes = " and ".join("xyz"[axis] for axis in np.flatnonzero(mirrored))
    return Finding(
        code=f"{group.name}-mirrored",
        severity="error",
        sentence=f"{group.name}s along {axes} do the opposite of the demonstrations: the sign is "
        "wrong, or the frame is.",
    )


def _saturated(group: Group, x: Numbers, y: Numbers) -> Iterator[Finding]:
    share, usually = at_limit(x), at_limit(y)
    limited = np.abs(x).max() <= 1 + 1e-6
    if limited and share > usual.SATURATED_SHARE and usually < _OF_COURSE_SATURATED:
        yield Finding(
            code=f"{group.name}-saturated",
            severity="error",
            sentence=f"{share:.0%} of the {group.name} numbers are at their limit of 1, "
            f"{usually:.0%} in the demonstrations: x{group.factor} is applied twice before a "
            "clip, or the un-normalisation range is too wide.",
            remedy=f"policy.actions.scale.{group.name}=1",
        )


def _scale(group: Group, x: Numbers, y: Numbers, kind: str) -> Iterator[Finding]:
    """Whether sizes agree, as far as they can be distinguished from noise and caution.

    A policy that adds noise is larger than the demonstrations by 1 / correlation, one that
    hedges is smaller by as much: what lies between is nobody's mistake.
    """
    if kind == "absolute":
        return  # a chunk of poses runs ahead of the arm
    used = y.std(axis=0) > _USED
    r = fit(x, y)
    ratio = float(np.sqrt(x[:, used].var(axis=0).sum() / y[:, used].var(axis=0).sum()))
    if r < LEAST_CORRELATION or ratio == 0:
        return
    factor, inverse = float(group.factor), 1 / group.factor
    if ratio / _NEAR < inverse < ratio * _NEAR:
        yield _wrong_size(group, x, y, f"x{group.factor} scaling is missing", f"{group.factor}")
    elif ratio / _NEAR < factor < ratio * _NEAR:
        yield _wrong_size(group, x, y, f"x{group.factor} scaling is applied twice", "1")
    elif not r * ratio / _TOLERANCE <= 1 <= _TOLERANCE * ratio / r:
        yield Finding(
            code=f"{group.name}-scale",
            severity="warning" if r < _CLOSE_FIT and 0.2 < ratio < 5 else "error",
            sentence=f"{group.name}s are {ratio:.2g} times as large as demonstrated (correlation "
            f"{r:.2f}): the un-normalisation range or a scale is wrong.",
            remedy="the range in policy.actions.unnormalize",
        )
    elif r >= _CLOSE_FIT:
        yield from _offset(group, x, y)


def _wrong_size(group: Group, x: Numbers, y: Numbers, cause: str, value: str) -> Finding:
    sizes = [float(np.abs(columns).mean()) for columns in (x, y)]
    return Finding(
        code=f"{group.name}-scale",
        severity="error",
        sentence=f"{group.name}s have a mean size of {sizes[0]:.2g}, demonstrations "
        f"{sizes[1]:.2g}: {cause}.",
        remedy=f"policy.actions.scale.{group.name}={value}",
    )


def _offset(group: Group, x: Numbers, y: Numbers) -> Iterator[Finding]:
    offset = np.abs((x - y).mean(axis=0))
    if offset.max() > _OFFSET:
        axis = int(offset.argmax())
        yield Finding(
            code=f"{group.name}-offset",
            severity="error",
            sentence=f"{group.name}s along {'xyz'[axis]} are off by {offset[axis]:.2g} on average: "
            "the un-normalisation range is not the one of the training.",
            remedy="the range in policy.actions.unnormalize",
        )
