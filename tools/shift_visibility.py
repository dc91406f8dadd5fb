"""Measure at every level how often a task's target can be seen when its chain starts.

python -m tools.shift_visibility [--axes camera,layout] [--chains 20]

A target counts as seen if it has `visibility.ENOUGH` pixels in one of the cameras. Targets are
those of all tasks of a chain that name one thing; inside the drawer or behind the door none is
expected.
"""

from __future__ import annotations

import argparse

from calvin_eval.shifts import LEVELS, NO_SHIFTS, Shifts
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import PlayTableEnv, make_env
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.visibility import ENOUGH, FINE, pixels, target_of


def seen_targets(env: PlayTableEnv, shifts: Shifts, chain_id: int) -> list[int]:
    """For every target of a chain's variant, its pixels in the camera that shows most of it."""
    chain = shifted(load_chains("official")[chain_id], shifts, env.world.scene)
    env.start(chain.robot_obs, chain.scene_obs, chain.variant)
    targets = dict.fromkeys(target_of(task, env) for task in chain.tasks)
    return [max(pixels(env, target).values()) for target in targets if target is not None]


def main() -> None:
    """Print a line per axis and level."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--axes", default="camera,start,layout,distractors")
    parser.add_argument("--chains", type=int, default=20)
    given = parser.parse_args()
    every = [Shifts(((axis, n),)) for axis in given.axes.split(",") for n in LEVELS]
    with make_env("D", render="fast", draw=FINE) as env:
        for shifts in [NO_SHIFTS, *every]:
            found = [p for c in range(given.chains) for p in seen_targets(env, shifts, c)]
            enough = sum(p >= ENOUGH for p in found)
            print(
                f"{str(shifts) or 'clean'}: {enough} of {len(found)} targets have {ENOUGH} pixels "
                f"or more; fewest {min(found)}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
