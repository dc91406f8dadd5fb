"""Draw every axis and level of the shifts that can be seen, side by side, for docs/shifts.md.

python -m tools.shift_pictures [FOLDER]

One picture per axis: columns are the benchmark and levels 1 to 5, the static camera above the
gripper's, after a few steps of the same motion.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calvin_eval.shifts import AXES, LEVELS, NO_SHIFTS, Shifts
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import PlayTableEnv, make_env
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.chains import shifted

CHAIN = 17
STEPS = 6
SEEN = [name for name, axis in AXES.items() if axis.kind != "language"]


def column(env: PlayTableEnv, shifts: Shifts) -> NDArray[np.uint8]:
    """Both cameras of a variant (284, 200, 3), the gripper's centred below the static one."""
    chain = shifted(load_chains("official")[CHAIN], shifts, env.world.scene)
    env.start(chain.robot_obs, chain.scene_obs, chain.variant)
    for _ in range(STEPS):
        env.advance(np.array([0.3, 0.0, -0.3, 0.0, 0.0, 0.0, 1.0]))
    seen: Any = env.observe(rgb=("static", "gripper"))["rgb_obs"]
    picture: NDArray[np.uint8] = np.full((284, 200, 3), 255, np.uint8)
    picture[:200] = seen["rgb_static"]
    picture[200:, 58:142] = seen["rgb_gripper"]
    return picture


def main() -> None:
    """Write one picture per axis."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/shifts")
    folder.mkdir(parents=True, exist_ok=True)
    with make_env("D", assets=load_pack("builtin"), render="fast") as env:
        for axis in SEEN:
            every = [NO_SHIFTS, *(Shifts(((axis, level),)) for level in LEVELS)]
            row = np.hstack([column(env, shifts) for shifts in every])
            Image.fromarray(row).save(folder / f"{axis}.webp", quality=60, method=6)
            print(folder / f"{axis}.webp", (folder / f"{axis}.webp").stat().st_size)


if __name__ == "__main__":
    main()
