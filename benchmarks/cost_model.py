"""What a run costs, from what its parts cost: measured, checked against a run, and scaled up.

    python benchmarks/cost_model.py [--render fast] [--json cost.json]

Seconds of processor time of a chain = reset + steps x step + decisions x (images + decision). The
parts are measured alone; then chains are run in this process, and what they took is compared with
what the parts predict. Processor time, not the clock's: a loaded machine changes it little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import best_assets
from policies import Wander

from calvin_eval.config.compose import compose_config
from calvin_eval.console.display import QuietDisplay
from calvin_eval.rollouts.engine import FaultRules
from calvin_eval.rollouts.here import PolicyHere
from calvin_eval.rollouts.inline import InlineEngine
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.running.run import run_plan
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.wrappers.policy import Request

POLICY = f"{Path(__file__).with_name('policies.py')}:Wander"
CAMERAS = ("static", "gripper")
CHAINS, STEPS = 8, 60


@dataclass(frozen=True)
class Parts:
    """Milliseconds of processor time.

    Attributes:
        reset: a fresh world.
        step: a thirtieth of a second of physics, and its judgement.
        images: both cameras' images and the state.
        decision: what a policy that costs nothing costs, in the process that asks it.
    """

    reset: float
    step: float
    images: float
    decision: float

    def chain(self, steps: float, chunk: int) -> float:
        """Seconds of a chain of so many steps, with a decision every `chunk` of them."""
        decisions = steps / chunk
        asked = decisions * (self.images + self.decision)
        return (self.reset + steps * self.step + asked) / 1000


def milliseconds(work: Callable[[], object], times: int = 1) -> float:
    """Processor time of one call, from a number of them."""
    start = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - start) / times


def measure(assets: str, render: str) -> Parts:
    """Each part alone, by the median of some rounds spread over chains."""
    oracle, policy = TaskOracle(assets), Wander()
    here = PolicyHere(policy, 0)
    rows: dict[str, list[float]] = {name: [] for name in ("reset", "step", "images", "decision")}
    with make_env("D", assets=assets, render=render) as env:
        env.start()
        env.observe(rgb=CAMERAS)  # meshes are read
        warm(env, oracle)
        for number in range(CHAINS):
            chain = load_chains("official")[number]
            start = partial(env.start, chain.robot_obs, chain.scene_obs)
            rows["reset"].append(milliseconds(start))
            task = chain.tasks[0]
            needs = oracle.needs((task,))
            before = env.get_info(needs)
            for step in range(STEPS):
                request = Request(session=chain.id, instruction="", position=0, step=step, obs={})
                action = policy.act([request])[0][0]

                def advance(action: Any = action, state: Any = (task, needs, before)) -> None:
                    task, needs, before = state
                    env.advance(action)
                    oracle.achieved(before, env.get_info(needs), (task,))

                rows["step"].append(milliseconds(advance))
                if step % 4 == 0:
                    rows["images"].append(milliseconds(lambda: env.observe(rgb=CAMERAS)))
                    rows["decision"].append(milliseconds(partial(here.act, [request])))
    # The mean: a sum is to be predicted, and contacts make some steps dearer than most.
    means = {name: statistics.fmean(values) for name, values in rows.items()}
    return Parts(**{**means, "reset": statistics.median(rows["reset"])})


def warm(env: PlayTableEnv, oracle: TaskOracle) -> None:
    """Do once what imports modules when it is done first."""
    before = env.get_info()
    env.advance([0, 0, 0, 0, 0, 0, 1])
    oracle.achieved(before, env.get_info())


def run(assets: str, render: str, chunk: int, chains: int, steps: int) -> tuple[float, float]:
    """Seconds of processor time of a run in this process, and the steps of its chains."""
    config = compose_config(
        [f"policy.options.chunk={chunk}"],
        {"ckpt": POLICY, "sim.assets": assets, "sim.render": render, "protocol.steps": steps,
         "protocol.num_chains": chains, "overwrite": True, "workers": 0},
    )  # fmt: skip
    policy = open_policy(config)
    plan = make_plan(gather_inputs(config), policy)
    with tempfile.TemporaryDirectory() as folder:
        object.__setattr__(plan.inputs.config, "out", f"{folder}/run")
        start = time.process_time()
        done = run_plan(plan, InlineEngine(FaultRules()), QuietDisplay())
        spent = time.process_time() - start
        profile = json.loads((done.folder / "profile.json").read_text())
    policy.close()
    return spent, float(profile["steps"])


def files_of_a_run(assets: str, render: str, parts: Parts) -> float:
    """Seconds that a run takes beside its chains: reading the scene, its record and its report."""
    run(assets, render, 1, 1, 1)  # imports
    spent, steps = run(assets, render, 1, 1, 1)
    return spent - parts.chain(steps, 1)


def scale(parts: Parts, steps: float, chunk: int) -> dict[str, float]:
    """Hours of the clock for 1000 chains of 20 checkpoints, by number of cores."""
    seconds = 20 * 1000 * parts.chain(steps, chunk)
    return {str(cores): seconds / cores / 3600 for cores in (1, 16, 512)}


def main() -> None:
    """Print the parts, predictions beside runs, and what a large evaluation costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", default="fast")
    parser.add_argument("--json", type=Path, default=Path("cost.json"))
    options = parser.parse_args()
    assets = best_assets()
    parts = measure(assets, options.render)
    print(f"assets {assets}, render {options.render}; milliseconds of processor time")
    print("  ".join(f"{name} {value:.3f}" for name, value in asdict(parts).items()))
    files = files_of_a_run(assets, options.render, parts)
    print(f"beside its chains a run takes {files:.2f} s")
    results: dict[str, Any] = {"parts": asdict(parts), "files": files, "runs": {}, "hours": {}}
    for chunk in (1, 10):
        spent, steps = run(assets, options.render, chunk, CHAINS, STEPS)
        predicted = files + CHAINS * parts.chain(steps / CHAINS, chunk)
        results["runs"][chunk] = {"predicted": predicted, "measured": spent}
        print(f"chunks of {chunk}: predicted {predicted:.2f} s, measured {spent:.2f} s "
              f"({predicted / spent - 1:+.0%}; goal within 10 %)")  # fmt: skip
        results["hours"][chunk] = scale(parts, 1000, chunk)
        hours = ", ".join(f"{c} cores {h:.2f} h" for c, h in results["hours"][chunk].items())
        print(f"  20 checkpoints x 1000 chains of 1000 steps: {hours}")
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
