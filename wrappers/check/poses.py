"""Absolute poses compared with where the arm was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calvin_eval.wrappers.check.commands import Numbers
from calvin_eval.wrappers.check.demonstrations import Pairs
from calvin_eval.wrappers.check.finding import Finding
from calvin_eval.wrappers.check.hypotheses import fit
from calvin_eval.wrappers.stages.rotations import REPRESENTATIONS, to_matrix

_FAR, _TURNED = 0.2, 0.5
"""Metres and radians; a step asks for at most 0.02 and 0.05, a chunk of ten for ten times that."""

_SAME_MOTION = 0.5

_FORMS = {
    3: ("euler_xyz", "euler_xyz_intrinsic", "axis_angle", "euler_zyx"),
    4: ("quaternion_xyzw", "quaternion_wxyz"),
}
"""By their width: what the simulator expects, and what else the numbers may be."""


def compare_poses(pairs: Pairs) -> Iterator[Finding]:
    """Whether absolute poses are near the measured ones; nothing of relative actions."""
    commands = pairs.commands
    if commands.kind != "absolute":
        return
    away = np.linalg.norm(commands.position - pairs.robot_obs[:, :3], axis=1)
    if (metres := float(np.median(away))) > _FAR:
        relative = fit(commands.position, pairs.demonstrated[:, :3]) >= _SAME_MOTION
        yield Finding(
            code="motion-as-pose" if relative else "pose-far",
            severity="error",
            sentence=f"absolute positions are {metres:.2f} m away from the arm (median), one step "
            "moves it by 0.02 m at most: "
            + ("they are relative motions used as poses." if relative
               else "they are scaled, or in another frame."),
        )  # fmt: skip
    measured = to_matrix(pairs.robot_obs[:, 3:6], "euler_xyz")
    forms = _FORMS[commands.orientation.shape[1]]
    angles = {form: _angle(_matrices(commands.orientation, form), measured) for form in forms}
    now, best = angles[forms[0]], min(angles, key=angles.__getitem__)
    if now <= _TURNED:
        return
    explained = angles[best] < min(_TURNED, now / 3)
    cause = "their form, their order or their frame is wrong"
    if explained:
        cause = f"they fit better as {best} than as {forms[0]} ({angles[best]:.2f} rad)"
    yield Finding(
        code="orientation-order" if explained else "orientation-far",
        severity="error",
        sentence=f"absolute orientations are {now:.2f} rad away from the arm's (median): {cause}.",
        remedy=f"policy.actions.orientation.source={best}" if best in REPRESENTATIONS else "",
    )


def _matrices(orientation: Numbers, form: str) -> Numbers:
    if form == "euler_zyx":
        return to_matrix(orientation[:, ::-1], "euler_xyz")
    return to_matrix(orientation, form)


def _angle(given: Numbers, measured: Numbers) -> float:
    """Median angle in radians between two rotations (n, 3, 3)."""
    trace = np.einsum("nij,nij->n", given, measured)
    return float(np.median(np.arccos(np.clip((trace - 1) / 2, -1, 1))))
