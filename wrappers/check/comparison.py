"""A policy's actions compared with demonstrated ones: which convention explains the difference?

A finding is made only where the evidence is strong: a repair has to explain clearly more of the
demonstrations, in both halves of them. A policy that is merely bad gets no finding but one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from calvin_eval.wrappers.check import reference as usual
from calvin_eval.wrappers.check.commands import Flags, Numbers
from calvin_eval.wrappers.check.demonstrations import Pairs
from calvin_eval.wrappers.check.finding import Finding
from calvin_eval.wrappers.check.gripper import compare_gripper
from calvin_eval.wrappers.check.groups import Group, compare_group
from calvin_eval.wrappers.check.hypotheses import (
    clearly_better,
    fit,
    halves,
    position_readings,
    rotation_readings,
)
from calvin_eval.wrappers.check.poses import compare_poses
from calvin_eval.wrappers.check.statistics import full_turns, jumping

LEAST_PAIRS = 100
LARGEST_SHIFT = 20

_UNRELATED, _FOLLOWS = 0.1, 0.5
_LAG, _EXACT = 2, 0.95


def compare(pairs: Pairs) -> list[Finding]:
    """Everything that is suspicious about a policy on demonstrations.

    Args:
        pairs: at least 100 actions; fewer give one finding that says so.
    """
    if len(pairs) < LEAST_PAIRS:
        return [
            Finding(
                code="too-few",
                severity="warning",
                sentence=f"{len(pairs)} demonstrated actions are too few to judge by: give "
                f"{LEAST_PAIRS} or more.",
            )
        ]
    bad = ~np.isfinite(pairs.predicted).all(axis=1)
    if bad.any():
        return [
            Finding(
                code="not-finite",
                severity="error",
                sentence=f"{bad.sum()} of {len(pairs)} actions hold NaN or infinity: the "
                "network overflows, or its normalisation divides by zero.",
            )
        ]
    findings = list(compare_poses(pairs))
    if not findings:
        findings = _compare_motion(pairs)
    follows = fit(pairs.predicted[:, :3], pairs.demonstrated[:, :3]) >= _FOLLOWS
    return [*findings, *compare_gripper(pairs, follows=follows)]


def _compare_motion(pairs: Pairs) -> list[Finding]:
    findings: list[Finding] = []
    pairs, jumps = _without_jumps(pairs)
    findings += jumps
    groups = (
        Group(name="position", columns=slice(0, 3), factor=50, readings=position_readings()),
        Group(name="rotation", columns=slice(3, 6), factor=20, readings=rotation_readings()),
    )
    repaired = pairs.predicted.copy()
    for group in groups:
        frame = [f.remedy for f in findings if f.code == "position-tcp-frame"]
        found, repaired[:, group.columns] = compare_group(group, pairs, *frame)
        findings += found
    findings = _with_the_other_factor(findings)
    if not any(finding.code.endswith(("constant", "pose-as-motion")) for finding in findings):
        findings += _shifted(repaired, pairs)
        best = max(
            abs(fit(repaired[:, g.columns], pairs.demonstrated[:, g.columns])) for g in groups
        )
        if not findings and best < _UNRELATED:
            findings.append(_unrelated(best))
    return findings


def _with_the_other_factor(findings: list[Finding]) -> list[Finding]:
    """A new scale stage has two factors: where one group is right, say that its factor is 1."""
    missing = {"policy.actions.scale.position=50": "rotation",
               "policy.actions.scale.rotation=20": "position"}  # fmt: skip
    scaled = [finding for finding in findings if finding.remedy in missing]
    if len(scaled) != 1:
        return findings
    hint = f" (with {missing[scaled[0].remedy]}=1 if that makes a new stage)"
    return [replace(f, remedy=f.remedy + hint) if f in scaled else f for f in findings]


def _without_jumps(pairs: Pairs) -> tuple[Pairs, list[Finding]]:
    """Rotations that jump by a full turn are brought back, in units of x20 or in radians."""
    rotation = pairs.predicted[:, 3:6]
    for turn in (usual.FULL_TURN, usual.FULL_TURN * usual.ROTATION_LIMIT):
        jumps = full_turns(rotation, turn)
        if jumps.any():
            predicted = pairs.predicted.copy()
            predicted[:, 3:6] = np.where(jumps, rotation - np.sign(rotation) * turn, rotation)
            count = int(jumps.any(axis=1).sum())
            return replace(pairs, predicted=predicted), [jumping(count, len(pairs))]
    return pairs, []


def _shifted(predicted: Numbers, pairs: Pairs) -> Iterator[Finding]:
    """Whether the actions, by their positions, belong to another step than their own."""
    parts = [np.ones(len(pairs), bool), *halves(pairs.episode)]
    x, y = predicted[:, :3], pairs.demonstrated[:, :3]
    now = [_fit_at(0, x, y, pairs, part) for part in parts]
    shifts = [shift for shift in range(-LARGEST_SHIFT, LARGEST_SHIFT + 1) if shift]
    best = max(shifts, key=lambda shift: _fit_at(shift, x, y, pairs, parts[0]))
    then = [_fit_at(best, x, y, pairs, part) for part in parts]
    if all(map(clearly_better, then, now)):
        steps = f"{abs(best)} step{'s' * (abs(best) > 1)} {'later' if best > 0 else 'earlier'}"
        cause = (
            "the chunk is executed from the wrong offset"
            if best > 0
            else "the window shows the policy an old frame, or the chunk has a wrong offset"
        )
        yield Finding(
            code="time-shift",
            # Smoothing lags by a step or two, and is no mistake.
            severity="error" if abs(best) > _LAG or then[0] >= _EXACT else "warning",
            sentence=f"the actions fit those that were demonstrated {steps} (correlation "
            f"{then[0]:.2f} instead of {now[0]:.2f}): {cause}.",
        )


def _fit_at(shift: int, x: Numbers, y: Numbers, pairs: Pairs, part: Flags) -> float:
    """How well actions fit those demonstrated so many steps later."""
    here = np.arange(len(x))
    there = here + shift
    inside = (there >= 0) & (there < len(x))
    here, there = here[inside], there[inside]
    same = (pairs.episode[here] == pairs.episode[there]) & part[here]
    if same.sum() < LEAST_PAIRS // 4:
        return 0.0
    return fit(x[here[same]], y[there[same]])


def _unrelated(best: float) -> Finding:
    return Finding(
        code="unrelated",
        severity="warning",
        sentence=f"the actions have nothing to do with the demonstrated ones (correlation "
        f"{best:.2f}): look at the images (camera, crop, channel order), the instruction and the "
        "weights.",
    )
