"""Demonstrations of a few reaching motions in the built-in simulator, and who knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim import make_env
from calvin_eval.sim.chains import load_chains
from calvin_eval.wrappers.check import Demonstration
from calvin_eval.wrappers.policy import Request, Requirements

STEPS = 50
UNITS = np.array([0.02] * 3 + [0.05] * 3)
"""Metres and radians that 1 means."""


@dataclass(frozen=True)
class Recorded:
    """One motion: actions (T, 7) and the states (T, 15) before each."""

    chain: int
    position: int
    actions: NDArray[np.float64]
    states: NDArray[np.float64]

    @property
    def demonstration(self) -> Demonstration:
        return Demonstration(
            session=self.chain * 10 + self.position,
            position=self.position,
            instruction="reach",
            actions=self.actions,
            observe=self._observe,
        )

    def _observe(
        self, step: int, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        return {"robot_obs": self.states[step], "rgb_obs": {}, "depth_obs": {}}


@lru_cache(maxsize=1)
def recorded() -> tuple[Recorded, ...]:
    """Six motions towards goals around the start, in two chains, with every axis in use."""
    draw = np.random.default_rng(7)
    motions = []
    env = make_env("D")
    for chain in load_chains("official").chains[:2]:
        env.start(chain.robot_obs, chain.scene_obs)
        target = offset = np.zeros(6)
        for position in range(3):
            states, actions = [], []
            for step in range(STEPS):
                if step % 9 == 0:
                    offset = draw.uniform(-1, 1, 6) * [0.1, 0.08, 0.06, 0.3, 0.3, 0.6]
                move = np.clip(0.3 * (offset - target) / UNITS, -1, 1)
                move += 0.05 * draw.standard_normal(6)
                target = target + UNITS * move
                gripper = 1.0 if (step // (11 + 3 * position)) % 2 else -1.0
                states.append(env.get_state_obs()["robot_obs"])
                actions.append(np.append(move, gripper))
                env.advance(actions[-1])
            motions.append(Recorded(chain.id, position, np.array(actions), np.array(states)))
    env.close()
    return tuple(motions)


def demonstrations() -> list[Demonstration]:
    return [motion.demonstration for motion in recorded()]


def write_recording(path: Path) -> Path:
    arrays = {f"chain{m.chain:04d}_sub{m.position}_actions": m.actions for m in recorded()}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


Encode = Callable[[NDArray[np.float64], NDArray[np.float64]], Any]
"""What a network says of a chunk of demonstrated actions (k, 7) in a state (15,)."""


class Knower:
    """Knows the demonstrations by heart and says them in its own convention.

    Args:
        encode: the convention.
        chunk: actions per decision.
        shift: steps by which it is ahead.
    """

    requirements = Requirements()

    def __init__(self, encode: Encode = lambda a, s: a, *, chunk: int = 1, shift: int = 0) -> None:
        self._encode = encode
        self._chunk = chunk
        self._shift = shift
        self._actions = {m.demonstration.session: m.actions for m in recorded()}

    def reset(self, session: int, instruction: str) -> None:
        pass

    def act(self, requests: Sequence[Request]) -> list[Any]:
        return [self._one(r.session, r.step, r.obs["robot_obs"]) for r in requests]

    def _one(self, session: int, step: int, state: NDArray[np.float64]) -> Any:
        actions = self._actions[session]
        rows = np.arange(step, step + self._chunk) + self._shift
        return self._encode(actions[rows.clip(0, len(actions) - 1)].copy(), state)
