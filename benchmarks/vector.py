"""Many worlds for learning: `make_vec` against Gymnasium's own, and against one world a core.

    python benchmarks/vector.py [--json vector.json] [--worlds 8] [--rounds 5]

All sides step the same environment, with the images of both cameras drawn by `fast`, by the same
motions, in turn within one run. Episodes are too long to end, but for the rows that say so. The
processes' own time (of the CPU, a step) is printed beside each rate: where the sides do the same
work it is the same, and on a busy machine it is what can be compared best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# One thread a process for numeric libraries, before any of them is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium
import numpy as np
from common import best_assets

import calvin_eval.sim.gym as play
from calvin_eval import make_vec

CAMERAS = ("static", "gripper")
GOALS = {"asynchronous": 1.5, "cores": 0.9}
STEPS = 12
SHORT = 30  # steps of an episode, as long as one that a good policy solves
LONG = 10_000


def cpu_seconds(pids: Iterable[int]) -> float:
    """What processes have used until now."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def kilobytes(pids: Iterable[int]) -> int:
    """Memory that only these processes hold."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1])
    return total


class Side:
    """One way of stepping worlds.

    Args:
        env: single or vector environment, started.
        worlds: how many it has.
        pids: of the processes that step them.
    """

    def __init__(self, env: Any, worlds: int, pids: Sequence[int]) -> None:
        self.env, self.worlds, self.pids = env, worlds, pids
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self._rng = np.random.default_rng(0)
        self._motion = np.zeros((worlds, 7), np.float32)
        env.reset(seed=0)
        self.step(3)

    def step(self, count: int) -> None:
        """Step all worlds, smoothly."""
        for _ in range(count):
            push = self._rng.normal(size=self._motion.shape)
            self._motion = np.clip(0.9 * self._motion + 0.15 * push, -1, 1).astype(np.float32)
            alone = self.env.unwrapped is self.env and isinstance(self.env, play.PlayTable)
            self.env.step(self._motion[0] if alone else self._motion)

    def measure(self, count: int) -> None:
        """Steps a second, of all worlds together."""
        before, start = cpu_seconds(self.pids), time.perf_counter()
        self.step(count)
        seconds = time.perf_counter() - start
        self.rates.append(self.worlds * count / seconds)
        self.cpu.append(1000 * (cpu_seconds(self.pids) - before) / (self.worlds * count))

    def line(self, name: str) -> str:
        """Its numbers."""
        cpu = statistics.median(self.cpu)
        return f"{name:28} {statistics.median(self.rates):7.1f} steps/s  {cpu:6.2f} ms of CPU each"


def ours(worlds: int, table: dict[str, Any], steps: int, **more: Any) -> Side:
    """`make_vec`."""
    env = make_vec(worlds, max_episode_steps=steps, **table, **more)
    return Side(env, worlds, env._crew.pids())


def theirs(worlds: int, table: dict[str, Any], steps: int) -> Side:
    """Gymnasium's `AsyncVectorEnv`, with observations in shared memory."""
    env: Any = gymnasium.make_vec(
        play.ID, num_envs=worlds, vectorization_mode="async", max_episode_steps=steps, **table
    )
    return Side(env, worlds, [process.pid for process in env.processes])


def compare(worlds: int, table: dict[str, Any], steps: int, rounds: int) -> dict[str, Any]:
    """Ours, by as many processes as cores and as worlds, against Gymnasium's, in turn."""
    what = "images" if table.get("cameras") else "states"
    what += f", episodes of {steps}" if steps == SHORT else ""
    goal = f" (goal {GOALS['asynchronous']}x)" if what == "images" else ""
    sides = {
        "make_vec": ours(worlds, table, steps),
        "make_vec, workers=worlds": ours(worlds, table, steps, workers=worlds),
        "AsyncVectorEnv": theirs(worlds, table, steps),
    }
    for _ in range(rounds):
        for side in sides.values():
            side.measure(2 * SHORT if steps == SHORT else STEPS)
    them = sides["AsyncVectorEnv"]
    results = {}
    for name, side in sides.items():
        megabytes = kilobytes(side.pids) / worlds / 1000
        ratio = statistics.median(a / b for a, b in zip(side.rates, them.rates, strict=True))
        print(f"{side.line(what)}, {megabytes:.0f} MB a world: {name}")
        if side is not them:
            print(f"{'':28} {ratio:5.2f}x AsyncVectorEnv{goal}")
        results[name] = {
            "rate": statistics.median(side.rates), "cpu_milliseconds": statistics.median(side.cpu),
            "megabytes": megabytes, "ratio": ratio,
        }  # fmt: skip
        side.env.close()
    return results


def against_cores(worlds: int, table: dict[str, Any], rounds: int) -> dict[str, float]:
    """Ours against one world alone, times the cores."""
    cores = len(os.sched_getaffinity(0))
    us = ours(worlds, table, LONG)
    single = Side(play.PlayTable(**table), 1, [os.getpid()])
    for _ in range(rounds):
        single.measure(4 * STEPS)
        us.measure(STEPS)
    ratio = statistics.median(a / b for a, b in zip(us.rates, single.rates, strict=True)) / cores
    us.env.close()
    single.env.close()
    print(single.line("one world, images"))
    print(f"{'':28} {ratio:5.2f} of {cores} cores times its rate (goal {GOALS['cores']})")
    return {"ratio": ratio, "single": statistics.median(single.rates), "cores": cores}


def main() -> None:
    """Print the ratios and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("vector.json"))
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    assets, worlds, rounds = best_assets(), options.worlds, options.rounds
    state: dict[str, Any] = {"task": "open_drawer", "assets": assets}
    images = {**state, "cameras": CAMERAS, "backend": "fast"}
    load = os.getloadavg()[0]
    print(f"assets {assets}, {os.cpu_count()} cores, load {load:.1f}, {worlds} worlds")
    results = {
        "worlds": worlds, "load": load,
        "images": compare(worlds, images, LONG, rounds),
        "cores": against_cores(worlds, images, rounds),
        "images, short episodes": compare(worlds, images, SHORT, max(1, rounds // 2)),
        "states": compare(worlds, state, LONG, rounds),
    }  # fmt: skip
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
