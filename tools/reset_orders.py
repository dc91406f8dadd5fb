"""Whether a chain's states depend on what its process did before: they must not, to the last bit.

    python -m tools.reset_orders [--orders 1000] [--assets PATH]

Every chain of a small set is run once in a process of its own, with visual shapes, as upstream
builds a world. Then this process runs them in random orders: in worlds that are reset again and
again, with visual shapes and without, broken off anywhere, several in turn. Every state along the
way, and the contacts at the end, must be those of the fresh process.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.packs import AssetPack, load_pack

STEPS = 12


@dataclass(frozen=True)
class Job:
    """A chain of the official list in a scene."""

    scene: str
    chain: int

    def __str__(self) -> str:
        return f"{self.scene}:{self.chain}"

    @classmethod
    def parse(cls, text: str) -> Job:
        """The job that `str` wrote."""
        scene, chain = text.split(":")
        return cls(scene, int(chain))


JOBS = tuple(Job(scene, chain) for chain in (0, 6, 7) for scene in "ABCD")


def digests(env: PlayTableEnv, job: Job, steps: int = STEPS) -> list[str]:
    """A digest of the state after the reset and after every step; all contacts are in the last."""
    chain = load_chains("official")[job.chain]
    rng = np.random.default_rng(job.chain)
    env.start(chain.robot_obs, chain.scene_obs)
    found = [_digest(env)]
    for _ in range(steps):
        env.advance([*rng.uniform(-1, 1, 6), rng.choice((-1, 1))])
        found.append(_digest(env))
    if steps == STEPS:
        found.append(hashlib.sha256(repr(env.get_info()).encode()).hexdigest())
    return found


def _digest(env: PlayTableEnv) -> str:
    state = env.get_state_obs()
    return hashlib.sha256(state["robot_obs"].tobytes() + state["scene_obs"].tobytes()).hexdigest()


def fresh(job: Job, assets: str) -> list[str]:
    """The digests of a job in a process that did nothing before."""
    command = [sys.executable, "-m", "tools.reset_orders", "--fresh", str(job), "--assets", assets]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.split()


class Orders:
    """Random orders of jobs in this process's worlds.

    Args:
        pack: the assets.
        truth: per job the digests of a fresh process.
        seed: of the orders.
    """

    def __init__(self, pack: AssetPack, truth: Mapping[Job, Sequence[str]], seed: int = 0) -> None:
        self._pack = pack
        self._truth = truth
        self._rng = np.random.default_rng(seed)
        self._envs: dict[tuple[str, bool], PlayTableEnv] = {}

    def run(self, length: int = 3) -> int:
        """Run one order of some jobs; returns how many digests were compared.

        Raises:
            AssertionError: a state differs; the message names the order.
        """
        jobs, compared, done = list(self._truth), 0, []
        for _ in range(length):
            job = jobs[int(self._rng.integers(len(jobs)))]
            visuals = bool(self._rng.random() < 0.2)
            steps = STEPS if self._rng.random() < 0.7 else int(self._rng.integers(STEPS))
            done.append(f"{job} {'drawn' if visuals else 'bare'} {steps}")
            found = digests(self._env(job.scene, visuals=visuals), job, steps)
            assert found == list(self._truth[job][: len(found)]), f"states differ after {done}"
            compared += len(found)
        return compared

    def _env(self, scene: str, *, visuals: bool) -> PlayTableEnv:
        key = scene, visuals
        if key in self._envs and self._rng.random() < 0.05:
            self._envs.pop(key).close()
        if key not in self._envs:
            self._envs[key] = make_env(scene, assets=self._pack)
            self._envs[key].world.drawn_by_bullet = visuals
        return self._envs[key]

    def close(self) -> None:
        """Free the worlds."""
        for env in self._envs.values():
            env.close()


def main() -> None:
    """Compare, and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--fresh", type=Job.parse)
    options = parser.parse_args()
    if options.fresh:
        with make_env(options.fresh.scene, assets=options.assets) as env:
            env.world.drawn_by_bullet = True
            print("\n".join(digests(env, options.fresh)))
        return
    truth = {job: fresh(job, options.assets) for job in JOBS}
    orders = Orders(load_pack(options.assets), truth)
    start, compared = time.monotonic(), 0
    for _ in range(options.orders):
        compared += orders.run()
    orders.close()
    print(
        f"{options.orders} orders of three resets, {compared} digests: all as in fresh processes "
        f"({time.monotonic() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
