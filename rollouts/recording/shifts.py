"""Demonstrations under shifts: another start, layout or view in every episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.recording.plan import EpisodePlan
from calvin_eval.shifts import AXES, Shifts
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.shifts.chains import shifted

_UNSEEN = ("dynamics", "language")


def recordable(shift: str | None) -> Shifts:
    """The shifts of a recording.

    Raises:
        UsageError: no such shift, or one that the frames of a data set cannot hold.
    """
    shifts = Shifts.parse(shift)
    for axis, level in shifts.levels:
        if axis in _UNSEEN or level in AXES[axis].touched:
            raise UsageError(
                "expected shifts of start, layout or images for a recording, found "
                f"{axis}={level}: a frame in CALVIN's format does not hold it, so that recorded "
                "actions would lead elsewhere when they are played back, or sentences would be "
                "others than --sentences says"
            )
    return shifts


def shifted_plans(
    plans: Sequence[EpisodePlan], shifts: Shifts, pack: AssetPack
) -> list[EpisodePlan]:
    """The episodes with their variants; an episode's number is its chain's id."""
    return [
        replace(plan, chain=shifted(plan.chain, shifts, pack.scene(plan.scene))) for plan in plans
    ]
