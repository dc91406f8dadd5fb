"""The robot's and the scene's state at the start of a chain.

Facts from `get_env_state_for_initial_condition` in `mees/calvin` fa03f01,
`calvin_models/calvin_agent/evaluation/utils.py`; checked against
`tests/golden/initial_states.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from calvin_eval.sim.sequences import fnv1_32
from calvin_eval.sim.symbolic import BLOCKS, SymbolicState

FloatArray = npt.NDArray[np.float64]

# The pose of the robot at the start of every chain: tcp position (m) and euler angles (rad),
# gripper opening width (m), seven joint positions (rad), gripper action.
_ROBOT_OBS: Final = (
    *(0.02586889, -0.2313129, 0.5712808),
    *(3.09045411, -0.02908596, 1.50013585),
    0.07999963,
    *(-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928),
    1.0,
)
_SLIDER_LEFT: Final = 0.28
_DRAWER_OPEN: Final = 0.22
_SWITCH_ON: Final = 0.088
_SLOT_POSITIONS: Final = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
_TABLE_POSITIONS: Final = (
    (5.00000896e-02, -1.20000177e-01, 4.59990009e-01),
    (2.29995412e-01, -1.19995140e-01, 4.59990010e-01),
)


def initial_robot_obs() -> FloatArray:
    """Returns the (15,) robot state with which every chain starts."""
    return np.array(_ROBOT_OBS)


def initial_scene_obs(
    state: Mapping[str, str | int], salt: str = "", rng: np.random.RandomState | None = None
) -> FloatArray:
    """Returns the (24,) scene state of a symbolic initial state, in scene D.

    The blocks' yaw (pi/2 +- pi/8) and which of the two table positions comes first are drawn
    by NumPy's legacy generator, seeded with a hash of the state's text. So chains that start in
    the same symbolic state start with the same poses: there are 192 layouts.

    Args:
        state: a symbolic initial state, with all eight keys in any order.
        salt: put before the text that is hashed; "" gives the benchmark's own poses.
        rng: is seeded anew and used; a new one by default, which takes longer.

    Raises:
        UsageError: if no chain can start in `state`.
    """
    state = SymbolicState.initial(state)
    rng = rng or np.random.RandomState(0)
    rng.seed(fnv1_32(salt + state.text))
    table = list(_TABLE_POSITIONS)
    rng.shuffle(table)
    # Red takes the first table position, pink the second, blue what red leaves.
    on_table = {"red_block": 0, "blue_block": int(state["red_block"] == "table"), "pink_block": 1}

    scene_obs = np.zeros(24)
    scene_obs[0] = _SLIDER_LEFT if state["slider"] == "left" else 0.0
    scene_obs[1] = _DRAWER_OPEN if state["drawer"] == "open" else 0.0
    scene_obs[3] = _SWITCH_ON if state["lightbulb"] else 0.0
    scene_obs[4] = state["lightbulb"]
    scene_obs[5] = state["led"]
    for pose, block in zip(scene_obs[6:].reshape(3, 6), BLOCKS, strict=True):
        place = str(state[block])
        pose[:3] = table[on_table[block]] if place == "table" else _SLOT_POSITIONS[place]
        pose[5] = rng.uniform(np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)
    return scene_obs
