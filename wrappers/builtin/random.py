"""`builtin:random`: the chance level, reproducible to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements


class RandomPolicy(BasePolicy):
    """Moves out along a random direction and back again, over and over.

    An action is a function of (seed, session, position, step) and of nothing else: neither the
    order of the chains nor the number of workers can change it. For `hold` steps the policy
    repeats one action drawn uniformly from [-1, 1)^6, then takes the same motion back for as
    many steps, so that the arm sweeps a star around its starting pose instead of drifting out
    of reach. The gripper is open (1) or closed (-1) by a fair coin, once out and once back.

    Args:
        seed: any integer >= 0.
        hold: environment steps for which one action is repeated, >= 1.
    """

    def __init__(self, seed: int = 0, hold: int = 16) -> None:
        for name, value, least in (("seed", seed, 0), ("hold", hold, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(
                    f"builtin:random: expected an integer {name} >= {least}, found {value!r}"
                )
        self.requirements = Requirements()
        self.seed = seed
        self.hold = hold

    def act(self, requests: Sequence[Request]) -> list[NDArray[np.float64]]:
        """Decide one action, shape (1, 7), for every request."""
        return [self.action(r.session, r.position, r.step)[None] for r in requests]

    def action(self, session: int, position: int, step: int) -> NDArray[np.float64]:
        """The relative action (7,) of one environment step of one subtask."""
        sweep, inward = divmod(step // self.hold, 2)
        # Raw words, because NumPy promises a bit generator's stream for ever and its
        # distributions only for one version.
        words = np.random.PCG64([self.seed, session, position, sweep]).random_raw(8)
        uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        motion = 2.0 * uniform[:6] - 1.0
        gripper = 1.0 if uniform[6 + inward] < 0.5 else -1.0
        return np.append(-motion if inward else motion, gripper)
