"""Write the golden replay: the expert's actions on chains that hold every task, with end states.

    python -m tools.expert_replay            write tests/golden/expert/builtin_D.npz

The chains are those that a greedy cover of the 34 tasks picks from the first 200 official ones; a
chain on which the expert fails is left out of the choice. Run this only when the built-in pack or
the protocol has changed on purpose; a better expert is no reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.chain import ChainRunner, Simulator
from calvin_eval.rollouts.replay import replay
from calvin_eval.sim import TaskOracle, load_chains, load_pack, make_env
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import PACK, load_instructions
from calvin_eval.sim.symbolic import TASK_NAMES
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "expert" / "builtin_D.npz"
POOL = 200

Arrays = dict[str, NDArray[Any]]


def record(runner: ChainRunner, env: Simulator, chain: Chain) -> Arrays | None:
    """One chain's arrays, named as `builtin:replay` reads them; None if a subtask fails."""
    outcome = runner.run(chain)
    if outcome.record.length < len(chain.tasks):
        return None
    arrays: Arrays = {}
    for step in replay(env, chain, outcome.actions, OFFICIAL):
        if step.last:
            name = f"chain{chain.id:04d}_sub{step.position}"
            arrays[f"{name}_actions"] = np.array(outcome.actions[step.position])
            arrays |= {f"{name}_{part}": value for part, value in step.state().items()}
    return arrays


def main() -> None:
    """Cover the tasks greedily and write the file."""
    chains = list(load_chains("official").chains[:POOL])
    env, pack = make_env("D", render="none"), load_pack("builtin")
    sentences = load_instructions(PACK, pack.instructions)
    runner = ChainRunner(
        env, TaskOracle(pack), ExpertPolicy(), instructions=sentences, rules=OFFICIAL
    )
    missing, index = set(TASK_NAMES), list[tuple[int, int, str, int]]()
    arrays: Arrays = {}
    while missing:
        chain = max(chains, key=lambda c: (len(missing & set(c.tasks)), -c.id))
        chains.remove(chain)
        found = record(runner, env, chain)
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
