"""The engine against a loop that does what upstream's evaluation does, in one run.

    python benchmarks/engine.py [--render egl] [--ours fast] [--json bench.json]

Upstream's pattern: one process; after every step both cameras are drawn with Bullet's default
flags (segmentation included) and the whole info is collected. Ours: two workers, and a policy that
decides at every step, every ten steps, or without looking. The policy itself costs nothing. Both
sides draw with `--render`; in the last rows ours draws with `--ours`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import best_assets
from policies import Wander

from calvin_eval.config.compose import compose_config
from calvin_eval.console.display import QuietDisplay
from calvin_eval.rollouts.engine import FaultRules
from calvin_eval.rollouts.local import LocalWorkers
from calvin_eval.rollouts.supervisor import SupervisedEngine
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.running.run import run_plan
from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.wrappers.policy import Request

POLICY = f"{Path(__file__).with_name('policies.py')}:Wander"
ROUNDS = 3
CASES: dict[str, tuple[dict[str, Any], int]] = {
    # name: options of the policy, environment steps of each of the chains
    "decision at every step": ({"images": True, "chunk": 1}, 12),
    "the same in chains of 120": ({"images": True, "chunk": 1}, 120),
    "chunks of 10": ({"images": True, "chunk": 10}, 80),
    "state only": ({"images": False, "chunk": 1}, 240),
}
GOALS = {"decision at every step": 2, "chunks of 10": 12, "state only": 40}
GOALS_OF_OURS = {
    "decision at every step": 12,
    "the same in chains of 120": 20,
    "chunks of 10": 20,
}


def upstreams_pattern(assets: str, render: str, steps: int = 24) -> Callable[[], float]:
    """A function that measures steps per second of upstream's call pattern."""
    env = make_env("D", assets=assets, render=render)
    oracle, chain = TaskOracle(assets), load_chains("official")[0]
    policy = Wander()
    env.reset(chain.robot_obs, chain.scene_obs)

    def measure() -> float:
        env.start(chain.robot_obs, chain.scene_obs)
        before = env.get_info()
        start = time.perf_counter()
        for step in range(steps):
            request = Request(session=0, instruction="", position=0, step=step, obs={})
            env.advance(policy.act([request])[0][0])
            for camera in env._cameras.values():
                env.world.bullet.getCameraImage(
                    width=camera.spec.width, height=camera.spec.height,
                    viewMatrix=camera.view(), projectionMatrix=camera.projection,
                )  # fmt: skip
            oracle.achieved(before, env.get_info(), (chain.tasks[0],))
        return steps / (time.perf_counter() - start)

    return measure


def our_engine(
    assets: str, render: str, case: str, workers: int, ckpt: str = POLICY
) -> tuple[Any, Callable[[], float]]:
    """An engine with warm workers, and a function that measures its steps per second."""
    options, steps = CASES[case]
    config = compose_config(
        [f"policy.options.{key}={value}" for key, value in options.items() if ckpt == POLICY],
        {"ckpt": ckpt, "sim.assets": assets, "sim.render": render, "protocol.steps": steps,
         "protocol.num_chains": 8 * workers, "overwrite": True},
    )  # fmt: skip
    policy = open_policy(config)
    plan = make_plan(gather_inputs(config), policy)
    engine = SupervisedEngine(LocalWorkers(workers), FaultRules())

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder:
            object.__setattr__(plan.inputs.config, "out", f"{folder}/run")
            run = run_plan(plan, engine, QuietDisplay())
            profile = json.loads((run.folder / "profile.json").read_text())
            return float(profile["steps"] / profile["wall_seconds"])

    measure()  # processes start, meshes are read, the first images are drawn
    return (engine, policy), measure


def close(things: tuple[Any, ...]) -> None:
    """End processes."""
    for thing in things:
        thing.close()


def main() -> None:
    """Print the ratios and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", default="egl")
    parser.add_argument("--ours", default="fast")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    assets = best_assets()
    base = upstreams_pattern(assets, options.render)
    results: dict[str, Any] = {
        "assets": Path(assets).name, "render": options.render, "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(), "cases": {},
    }  # fmt: skip
    print(f"assets {assets}, render {options.render}, {os.cpu_count()} cores, {ROUNDS} rounds")
    rows = [(case, options.render, goal) for case, goal in GOALS.items()]
    rows += [(case, options.ours, goal) for case, goal in GOALS_OF_OURS.items()]
    for case, render, goal in rows:
        things, ours = our_engine(assets, render, case, workers=2)
        pairs = [(base(), ours()) for _ in range(ROUNDS)]
        close(things)
        ratio = statistics.median(o / b for b, o in pairs)
        b, o = (statistics.median(column) for column in zip(*pairs, strict=True))
        name = f"{case}, {render}"
        results["cases"][name] = {"upstream_pattern": b, "ours": o, "ratio": ratio, "goal": goal}
        print(f"{name:31} {b:7.1f} -> {o:7.1f} steps/s  {ratio:5.1f}x (goal {goal}x)")
    physics = (assets, options.render, "state only")
    one_things, one = our_engine(*physics, workers=1, ckpt="builtin:random")
    two_things, two = our_engine(*physics, workers=2, ckpt="builtin:random")
    scaling = statistics.median(two() / one() for _ in range(ROUNDS))
    close(one_things + two_things)
    results["scaling_1_to_2_workers"] = scaling
    print(f"{'physics, 1 to 2 workers':24} {scaling:27.2f}x (goal 1.8x)")
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
