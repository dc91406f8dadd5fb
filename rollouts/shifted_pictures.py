"""What shifts look like: the same moment of one chain, as it is and under each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from calvin_eval.rollouts.chain import begin
from calvin_eval.rollouts.video.frames import Frame
from calvin_eval.shifts import AXES, NO_SHIFTS, Level, Shifts
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.shifts.chains import shifted

CellOf: TypeAlias = "tuple[str, Level] | None"
"""An axis and its level; None for the chain as it is."""

STEPS: Final = 6
_MOTION: Final = (0.3, 0.0, -0.3, 0.0, 0.0, 0.0, 1.0)  # a relative action: onwards and down
_QUALITY: Final = 60


def column(env: PlayTableEnv, chain: Chain, shifts: Shifts) -> Frame:
    """Both cameras of a chain's variant after a few steps of the same motion.

    Args:
        env: with a renderer that can draw the shifts, and the cameras `static` and `gripper`.
        chain: of the list, fitted to the scene.
        shifts: none for the chain as it is.

    Returns:
        (H, W, 3) uint8: the static camera's image, the gripper's centred below it, on white.
    """
    begin(env, shifted(chain, shifts, env.world.scene))
    for _ in range(STEPS):
        env.advance(np.array(_MOTION))
    seen: Any = env.observe(rgb=("static", "gripper"))["rgb_obs"]
    static, gripper = seen["rgb_static"], seen["rgb_gripper"]
    (high, wide), (low, narrow) = static.shape[:2], gripper.shape[:2]
    picture: Frame = np.full((high + low, wide, 3), 255, np.uint8)
    picture[:high] = static
    left = (wide - narrow) // 2
    picture[high:, left : left + narrow] = gripper
    return picture


def can_be_seen(axis: str) -> bool:
    """Whether a picture shows the axis: all but wordings."""
    return AXES[axis].kind != "language"


def pictures(
    env: PlayTableEnv, chain: Chain, cells: Mapping[str, CellOf], seed: int
) -> Iterator[tuple[str, bytes]]:
    """JPEG of every cell that can be seen, by its name.

    Args:
        env: as for `column`.
        chain: likewise.
        cells: by name.
        seed: of the shifts.
    """
    for name, cell in cells.items():
        if cell is None or can_be_seen(cell[0]):
            shifts = NO_SHIFTS if cell is None else Shifts((cell,), seed)
            file = BytesIO()
            Image.fromarray(column(env, chain, shifts)).save(file, "JPEG", quality=_QUALITY)
            yield name, file.getvalue()
