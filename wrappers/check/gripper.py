"""The gripper's commands compared with the demonstrated ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calvin_eval.wrappers.check.commands import Flags
from calvin_eval.wrappers.check.demonstrations import Pairs
from calvin_eval.wrappers.check.finding import Finding
from calvin_eval.wrappers.check.hypotheses import halves

_LEAST = 10
"""So many demonstrated actions of each kind are needed."""

_INVERTED, _CHANCE = 0.35, 0.6


def compare_gripper(pairs: Pairs, *, follows: bool) -> Iterator[Finding]:
    """Whether the gripper opens and closes as demonstrated.

    Args:
        pairs: the actions.
        follows: whether the arm does what was demonstrated; of a policy that does not, a gripper
            at chance level says nothing.
    """
    given, shown = pairs.predicted[:, 6], pairs.demonstrated[:, 6] > 0
    odd = ~np.isin(given, (-1.0, 1.0))
    if odd.any():
        low, high = given.min(), given.max()
        yield Finding(
            code="gripper-values",
            severity="error",
            sentence=f"{odd.sum()} of {len(given)} gripper commands are neither -1 nor 1 (from "
            f"{low:.3g} to {high:.3g}): the simulator refuses them.",
            remedy=f"policy.actions.gripper.input={_form(low, high)}",
        )
        return
    if min(shown.sum(), (~shown).sum()) < _LEAST:
        return
    opened = given > 0
    if opened.all() or not opened.any():
        yield _constant(bool(opened.all()), float((~shown).mean()))
        return
    agreement = _agreement(opened, shown)
    in_parts = [_agreement(opened[part], shown[part]) for part in halves(pairs.episode)]
    if agreement < _INVERTED and max(in_parts) < _INVERTED:
        yield Finding(
            code="gripper-inverted",
            severity="error",
            sentence=f"the gripper does the opposite of the demonstrations ({1 - agreement:.0%} of "
            "its commands, open and closed weighed alike): open and close are swapped.",
            remedy="policy.actions.gripper.high=close (=open where it is close)",
        )
    elif follows and agreement < _CHANCE:
        yield Finding(
            code="gripper-chance",
            severity="warning",
            sentence=f"the gripper agrees with the demonstrations no better than a coin "
            f"({agreement:.0%}) while the arm follows them: look at its threshold and its column.",
        )


def _agreement(opened: Flags, shown: Flags) -> float:
    """Share of agreement, each kind by itself: demonstrations may be open most of the time."""
    kinds = [(opened == shown)[shown == kind].mean() for kind in (True, False) if kind in shown]
    return float(np.mean(kinds)) if kinds else 0.5


def _form(low: float, high: float) -> str:
    """What numbers in this range probably are."""
    if low < -1 or high > 1:
        return "logit"
    return "signed" if low < 0 else "probability"


def _constant(opened: bool, closed_share: float) -> Finding:
    share = closed_share if opened else 1 - closed_share
    state, other = ("open", "close") if opened else ("closed", "open")
    return Finding(
        code="gripper-constant",
        severity="error",
        sentence=f"the gripper is always {state}, but demonstrations {other} it in {share:.0%} of "
        "their actions: its threshold or its range is wrong.",
        remedy="policy.actions.gripper.threshold",
    )
