"""Chains under the shifts of a run."""

from __future__ import annotations

from dataclasses import replace

from calvin_eval.shifts import Shifts
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.layouts import LAYOUTS
from calvin_eval.sim.packs import SceneSpec
from calvin_eval.sim.shifts.certificate import attempts_of
from calvin_eval.sim.shifts.dynamics import Dynamics
from calvin_eval.sim.shifts.starts import moved_arm, moved_layout
from calvin_eval.sim.shifts.variant import Variant


def variant_of(chain: int, shifts: Shifts) -> Variant | None:
    """What makes the variant of a chain, by its id; None where nothing is shifted."""
    if not shifts:
        return None
    return Variant(shifts=shifts, chain=chain, attempts=attempts_of(shifts, chain))


def shifted(
    chain: Chain, shifts: Shifts, scene: SceneSpec, variant: Variant | None = None
) -> Chain:
    """A chain's variant; the chain itself where nothing is shifted.

    Start states that a shift moves are `given`, so that records have their numbers; what else
    changes follows from `Chain.variant`.

    Args:
        chain: of the list, fitted to the scene.
        shifts: of the run.
        scene: in which the chain is run.
        variant: another one than the certified; see `tools/certify_shifts.py`.

    Raises:
        UsageError: the chain's start state cannot be shifted so.
    """
    variant = variant or variant_of(chain.id, shifts)
    if variant is None:
        return chain
    robot_obs, scene_obs = chain.robot_obs, chain.scene_obs
    if variant.level("start"):
        robot_obs = moved_arm(variant, robot_obs, scene)
    if variant.level("layout"):
        scene_obs = moved_layout(variant, scene_obs, LAYOUTS[scene.name].button)
    if variant.level("dynamics"):
        scene_obs = Dynamics.of(variant).settle(scene_obs)
    moved = robot_obs is not chain.robot_obs or scene_obs is not chain.scene_obs
    return replace(
        chain,
        robot_obs=robot_obs,
        scene_obs=scene_obs,
        given=chain.given or moved,
        variant=variant,
    )
