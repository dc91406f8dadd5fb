"""What the scripted expert can still do from a state in which a policy was, or which it left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calvin_eval.errors import AssetError
from calvin_eval.results.diagnosis import Attempt
from calvin_eval.rollouts.diagnosis.habits import DIGITS
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.policy import Request


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A subtask that goes on.

    Attributes:
        task: its name.
        start_info: of the state that it began in, by which the oracle judges it.
        steps: what the expert has at most.
    """

    task: str
    start_info: Mapping[str, Any]
    steps: int


def try_expert(env: PlayTableEnv, oracle: TaskOracle, asked: Asked) -> Attempt:
    """Let the expert go on from the state in which the simulator is, to its end.

    Raises:
        AssetError: the simulator cannot run any chain.
    """
    attempt = _attempt(False, 0, 0.0, None)
    for attempt in go_on(env, oracle, asked):  # noqa: B007 - the last one counts
        pass
    return attempt


def go_on(env: PlayTableEnv, oracle: TaskOracle, asked: Asked) -> Iterator[Attempt]:
    """Let the expert go on from the state in which the simulator is, step by step.

    Its actions are made absolute, from where the hand is: the simulator's target pose, to which
    relative actions are added, may be anywhere after what a policy did.

    Yields:
        After every step what the attempt has come to; one that is solved or has a problem ends it.

    Raises:
        AssetError: the simulator cannot run any chain.
    """
    expert = ExpertPolicy(env.world.scene.name)
    expert.reset(0, "")
    needs = oracle.needs((asked.task,))
    obs = env.get_state_obs()
    hand, euler, path = obs["robot_obs"][:3].copy(), obs["robot_obs"][3:6].copy(), 0.0
    robot = env.world.pack.robot
    for step in range(asked.steps):
        request = Request(
            session=0, instruction="", position=0, step=step, obs=obs, info=env.get_info(),
            task=asked.task,
        )  # fmt: skip
        try:
            action = expert.act([request])[0][0]
            hand = hand + robot.max_rel_pos * action[:3]
            euler = euler + robot.max_rel_orn * action[3:6]
            env.advance((hand, euler, float(action[6])))
        except AssetError:
            raise
        except Exception as error:  # it knows the states of the benchmark, and this is any state
            yield _attempt(False, step, path, f"{type(error).__name__}: {error}")
            return
        before, obs = obs, env.get_state_obs()
        path += float(np.linalg.norm(obs["robot_obs"][:3] - before["robot_obs"][:3]))
        solved = bool(oracle.achieved(asked.start_info, env.get_info(needs), (asked.task,)))
        yield _attempt(solved, step + 1, path, None)
        if solved:
            return


def _attempt(solved: bool, steps: int, path: float, problem: str | None) -> Attempt:
    return Attempt(solved=solved, steps=steps, path=round(path, DIGITS), problem=problem)
