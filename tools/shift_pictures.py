"""Draw every axis and level of the shifts that can be seen, side by side, for docs/shifts.md.

python -m tools.shift_pictures [FOLDER]

One picture per axis: columns are the benchmark and levels 1 to 5, the static camera above the
gripper's, after a few steps of the same motion.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from calvin_eval.rollouts.shifted_pictures import can_be_seen, column
from calvin_eval.shifts import AXES, LEVELS, NO_SHIFTS, Shifts
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.sim.packs import load_pack

CHAIN = 17
SEEN = [name for name in AXES if can_be_seen(name)]


def main() -> None:
    """Write one picture per axis."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/shifts")
    folder.mkdir(parents=True, exist_ok=True)
    with make_env("D", assets=load_pack("builtin"), render="fast") as env:
        chain = load_chains("official")[CHAIN]
        for axis in SEEN:
            every = [NO_SHIFTS, *(Shifts(((axis, level),)) for level in LEVELS)]
            row = np.hstack([column(env, chain, shifts) for shifts in every])
            Image.fromarray(row).save(folder / f"{axis}.webp", quality=60, method=6)
            print(folder / f"{axis}.webp", (folder / f"{axis}.webp").stat().st_size)


if __name__ == "__main__":
    main()
