"""A world of one number, and what a chain in it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.wrappers.policy import Requirements

CHAIN = Chain(
    id=7,
    initial_state={"led": 0},
    tasks=("reach_1", "reach_2", "reach_3"),
    robot_obs=np.zeros(15),
    scene_obs=np.zeros(24),
)
INSTRUCTIONS = InstructionSet(
    name="test", by_task={f"reach_{i}": (f"go to {i}",) for i in range(1, 10)}, by_chain={}
)


class Line:
    """A world with one coordinate: action[0] is added to it."""

    def __init__(self) -> None:
        self.x = 0.0
        self.calls: list[str] = []

    def start(self, robot_obs: Any = None, scene_obs: Any = None, variant: Any = None) -> None:
        self.x = 0.0
        self.calls.append("start")

    def place_robot(self, robot_obs: Any) -> None:
        self.x = 0.0
        self.calls.append("place")

    def advance(self, action: Any) -> None:
        self.x += float(action[0])
        self.calls.append("step")

    def observe(self, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()) -> dict[str, Any]:
        self.calls.append(f"observe {','.join(rgb)}")
        return {"x": self.x}

    def get_state_obs(self) -> dict[str, Any]:
        return {"robot_obs": np.full(15, self.x), "scene_obs": np.zeros(24)}

    def get_info(self, needs: Any = None) -> dict[str, Any]:
        return {"x": self.x}

    def close(self) -> None:
        pass


class ReachOracle:
    """`reach_n` is achieved where x >= n."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def needs(self, tasks: Any) -> None:
        return None

    def achieved(self, start: Any, info: Any, tasks: Any) -> set[str]:
        self.asked.append(tuple(tasks))
        return {task for task in tasks if info["x"] >= float(task[-1]) - 1e-9}


class Scripted:
    """Answers every request with the same chunk and remembers what it was sent."""

    def __init__(self, chunk: Any, **requirements: Any) -> None:
        self.requirements = Requirements(**requirements)
        self.chunk = chunk
        self.log: list[Any] = []

    def reset(self, session: int, instruction: str) -> None:
        self.log.append(("reset", session, instruction))

    def act(self, requests: Any) -> Any:
        (request,) = requests
        self.log.append((request.session, request.position, request.step, request.obs["x"]))
        return [self.chunk]


def chunk(*values: float) -> Any:
    return np.array([[value, 0, 0, 0, 0, 0, 1] for value in values])
