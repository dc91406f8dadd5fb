"""What executed actions alone tell, without a demonstration to hold them against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from calvin_eval.wrappers.check import reference as usual
from calvin_eval.wrappers.check.commands import Commands, Flags, Indices, Numbers, read_commands
from calvin_eval.wrappers.check.finding import Finding


def examine(subtasks: Sequence[Sequence[Any]], *, chains: Sequence[int] = ()) -> list[Finding]:
    """Look for the marks of a wrong convention in actions that were executed.

    Args:
        subtasks: per subtask its actions in order, in any form that the simulator accepts.
        chains: of every subtask, the chain that it belongs to; all of one chain by default.

    Returns:
        Nothing where all is well, or where there are fewer than 200 actions to judge by.

    Raises:
        PolicyError: an action has none of the forms.
    """
    commands = read_commands([action for actions in subtasks for action in actions])
    if len(commands) < usual.LEAST_ACTIONS:
        return []
    table = commands.table
    if findings := list(_unusable(table)):
        return findings
    if (table == table[0]).all():
        return [_constant(table[0], len(table))]
    findings = list(_gripper(commands.gripper))
    lengths = [len(actions) for actions in subtasks]
    owners = list(chains) or [0] * len(lengths)
    chain = np.repeat(owners, lengths)
    subtask = np.repeat(np.arange(len(lengths)), lengths)
    if len(chain) != len(commands):  # of several kinds: neighbours are not known
        chain = subtask = np.arange(len(commands))
    if commands.kind == "relative":
        findings += _positions(commands.position, chain, subtask)
        findings += _rotations(commands.orientation, chain)
    elif commands.kind == "absolute":
        findings += _poses(commands)
    return findings


def _unusable(table: Numbers) -> Iterator[Finding]:
    bad = ~np.isfinite(table).all(axis=1)
    if bad.any():
        yield Finding(
            code="not-finite",
            severity="error",
            sentence=f"{bad.sum()} of {len(table)} actions hold NaN or infinity: the network "
            "overflows, or its normalisation divides by zero.",
        )


def _constant(action: Numbers, count: int) -> Finding:
    values = ", ".join(f"{number:.3g}" for number in action)
    return Finding(
        code="constant",
        severity="error",
        sentence=f"all {count} actions are the same ({values}): the output does not depend on what "
        "the policy sees.",
    )


def _gripper(gripper: Numbers) -> Iterator[Finding]:
    if np.ptp(gripper) == 0:
        state = "open" if gripper[0] > 0 else "closed"
        yield Finding(
            code="gripper-constant",
            severity="warning",
            sentence=f"the gripper is {state} in all {len(gripper)} actions: its threshold or its "
            "range may be wrong (demonstrations move it about every 40 actions).",
        )


def _positions(x: Numbers, chain: Indices, subtask: Indices) -> Iterator[Finding]:
    largest, middle = float(np.quantile(np.abs(x), 0.99)), float(np.median(np.abs(x).max(axis=1)))
    if 0 < largest < usual.METRES:
        yield Finding(
            code="position-scale",
            severity="error",
            sentence=f"positions have a median size of {middle:.2g} and hardly ever exceed "
            f"{largest:.2g}, demonstrations reach 1: they look like metres, x50 is missing.",
            remedy="policy.actions.scale.position=50 (and rotation=20, or 1 if those are right)",
        )
    elif middle > usual.BEYOND:
        yield Finding(
            code="position-scale",
            severity="error",
            sentence=f"positions have a median size of {middle:.2g}, demonstrations never exceed "
            "1: they are scaled twice, or are no relative actions.",
        )
    elif (share := at_limit(x)) > usual.SATURATED_SHARE:
        yield _saturated("position", share, "11 to 28 %")
    else:
        yield from _motion(x, chain, subtask)


def _saturated(what: str, share: float, usually: str) -> Finding:
    return Finding(
        code=f"{what}-saturated",
        severity="warning",
        sentence=f"{share:.0%} of the {what} numbers are at their limit of 1 (demonstrations: "
        f"{usually}): a scale is applied twice, or the un-normalisation range is too wide.",
    )


def _motion(x: Numbers, chain: Indices, subtask: Indices) -> Iterator[Finding]:
    """Positions of a plausible size that go to and fro, or away for good."""
    together = subtask[1:] == subtask[:-1]
    moving = (np.abs(x[1:]) > usual.MOVING) & (np.abs(x[:-1]) > usual.MOVING) & together[:, None]
    turns = float((np.sign(x[1:]) != np.sign(x[:-1]))[moving].mean()) if moving.any() else 0.0
    if moving.sum() >= usual.LEAST_ACTIONS and turns > usual.TURNING_SHARE:
        yield Finding(
            code="jitter",
            severity="warning",
            sentence=f"{turns:.0%} of the steps turn round against the step before "
            "(demonstrations: 1 to 5 %): look at chunk execution, ensembling and history.",
        )
    metres = _farthest(usual.POSITION_LIMIT * x, chain)
    if metres > usual.FARTHEST_METRES:
        yield Finding(
            code="position-drift",
            severity="warning",
            sentence=f"the commanded position went {metres:.1f} m away from its start, out of "
            "reach (demonstrations: at most 0.36 m): absolute positions are used as relative "
            "ones, the frame is wrong, or the un-normalisation adds an offset.",
        )


def _rotations(x: Numbers, chain: Indices) -> Iterator[Finding]:
    jumps = full_turns(x, usual.FULL_TURN)
    if jumps.any():
        yield jumping(int(jumps.any(axis=1).sum()), len(x))
        x = np.where(jumps, x - np.sign(x) * usual.FULL_TURN, x)
    largest, middle = float(np.quantile(np.abs(x), 0.99)), float(np.median(np.abs(x).max(axis=1)))
    if 0 < largest < usual.RADIANS and len(x) >= usual.LEAST_FOR_ROTATION:
        yield Finding(
            code="rotation-scale",
            severity="warning",
            sentence=f"rotations hardly ever exceed {largest:.2g}, demonstrations reach 1: they "
            "look like radians, x20 is missing.",
            remedy="policy.actions.scale.rotation=20 (and position=50, or 1 if those are right)",
        )
    elif middle > usual.BEYOND:
        yield Finding(
            code="rotation-scale",
            severity="error",
            sentence=f"rotations have a median size of {middle:.2g}, demonstrations never exceed "
            "1: they are scaled twice, or are no relative actions.",
        )
    elif (share := float((np.abs(x) >= usual.AT_LIMIT).mean())) > usual.SATURATED_SHARE:
        yield _saturated("rotation", share, "0 to 18 %")
    elif (radians := _farthest(usual.ROTATION_LIMIT * x, chain)) > usual.FARTHEST_RADIANS:
        yield Finding(
            code="rotation-drift",
            severity="warning",
            sentence=f"the commanded rotation went {radians:.1f} rad away from its start "
            "(demonstrations: at most 2 rad): absolute angles are used as relative ones, or the "
            "frame is wrong.",
        )


def full_turns(rotation: Numbers, turn: float) -> Flags:
    """Which numbers are a full turn, give or take a full step, while the others are steps."""
    jumps: Flags = np.abs(np.abs(rotation) - turn) < turn / 40
    others = np.abs(rotation[~jumps])
    ordinary = others.size and np.quantile(others, 0.99) < turn / 40
    return jumps if ordinary else np.zeros_like(jumps)


def at_limit(x: Numbers) -> float:
    """Share of the numbers at a limit among those that move at all."""
    moving = np.abs(x) > usual.STILL
    return float((np.abs(x[moving]) >= usual.AT_LIMIT).mean()) if moving.any() else 0.0


def jumping(count: int, total: int) -> Finding:
    """Euler differences that were not wrapped."""
    return Finding(
        code="rotation-jump",
        severity="warning",
        sentence=f"{count} of {total} rotations jump by a full turn (2 pi x 20 = 125.7): the "
        "difference of two euler angles was not wrapped, and a clip would turn it into a full "
        "step the wrong way.",
        remedy="policy.actions.state_relative.euler_wrap=true",
    )


def _farthest(steps: Numbers, chain: Indices) -> float:
    """The largest accumulated displacement along an axis within a chain."""
    ways = [np.abs(np.cumsum(steps[chain == one], axis=0)).max() for one in np.unique(chain)]
    return float(max(ways))


def _poses(commands: Commands) -> Iterator[Finding]:
    bounds = np.array(usual.WORKSPACE)
    outside = ((commands.position < bounds[:, 0]) | (commands.position > bounds[:, 1])).any(axis=1)
    if outside.mean() > 0.5:
        x, y, z = np.median(commands.position, axis=0)
        yield Finding(
            code="pose-outside",
            severity="error",
            sentence=f"{outside.mean():.0%} of the absolute positions lie outside of what the arm "
            f"reaches over the table (median {x:.2f}, {y:.2f}, {z:.2f} m): they are scaled, in "
            "another frame, or relative.",
        )
