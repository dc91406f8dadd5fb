"""Write the golden replay: the expert's actions on chains that hold every task, with end states.

    python -m tools.expert_replay            write tests/golden/expert/builtin_D.npz

The chains are those that a greedy cover of the 34 tasks picks from the first 200 official ones; a
chain on which the expert fails is left out of the choice. Run this only when the built-in pack or
the protocol has changed on purpose; a better expert is no reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.protocol import OFFICIAL
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.symbolic import TASK_NAMES
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.policy import Request

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "expert" / "builtin_D.npz"
POOL = 200

Arrays = dict[str, NDArray[Any]]


def record(env: Any, oracle: TaskOracle, policy: ExpertPolicy, chain: Chain) -> Arrays | None:
    """One chain's arrays, named as `builtin:replay` reads them; None if a subtask fails."""
    env.start(chain.robot_obs, chain.scene_obs)
    arrays: Arrays = {}
    for position, task in enumerate(chain.tasks):
        policy.reset(chain.id, task)
        actions = list(attempt(env, oracle, policy, chain.id, position, task))
        if len(actions) > OFFICIAL.steps:
            return None
        name = f"chain{chain.id:04d}_sub{position}"
        state = env.get_state_obs()
        arrays[f"{name}_actions"] = np.stack(actions)
        arrays[f"{name}_robot_obs"] = state["robot_obs"]
        arrays[f"{name}_scene_obs"] = state["scene_obs"]
    return arrays


def attempt(
    env: Any, oracle: TaskOracle, policy: ExpertPolicy, session: int, position: int, task: str
) -> Iterator[NDArray[np.float64]]:
    """Act until the task is done, or for one action more than the budget."""
    start = env.get_info()
    for step in range(OFFICIAL.steps + 1):
        request = Request(
            session=session,
            instruction=task,
            position=position,
            step=step,
            obs=env.get_state_obs(),
            info=env.get_info(),
            task=task,
        )
        action = policy.act([request])[0][0]
        yield action
        env.advance(action)
        if oracle.achieved(start, env.get_info(), (task,)):
            return


def main() -> None:
    """Cover the tasks greedily and write the file."""
    chains = list(load_chains("official").chains[:POOL])
    env, oracle, policy = make_env("D", render="none"), TaskOracle(), ExpertPolicy()
    missing, index = set(TASK_NAMES), list[tuple[int, int, str, int]]()
    arrays: Arrays = {}
    while missing:
        chain = max(chains, key=lambda c: (len(missing & set(c.tasks)), -c.id))
        chains.remove(chain)
        found = record(env, oracle, policy, chain)
        if found is None:
            continue
        arrays |= found
        missing -= set(chain.tasks)
        for position, task in enumerate(chain.tasks):
            steps = len(found[f"chain{chain.id:04d}_sub{position}_actions"])
            index.append((chain.id, position, task, steps))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {"index": np.array(json.dumps(index)), **arrays}
    np.savez_compressed(TARGET, **named)
    chosen = sorted({entry[0] for entry in index})
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, chains {chosen}")


if __name__ == "__main__":
    main()
