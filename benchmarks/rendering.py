"""Every renderer in one run: pairs of images a second, and how threads scale.

    python benchmarks/rendering.py [--json rendering.json]

A pair is what a step shows a policy: 200x200 static and 84x84 gripper, colour and depth. Every
renderer draws the same states, in turn, on one core; each step moves the arm. How far their images
are apart, calvin_eval.sim.drawing.fidelity says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One core for llvmpipe and for numeric libraries, before any of them is loaded.
os.environ["LP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from common import best_assets

from calvin_eval.errors import CalvinEvalError
from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.drawing.fast import FastRenderer
from calvin_eval.sim.drawing.scene import Scene

# OpenGL comes last, alone: Bullet's plugin draws nothing once another context is current.
PHASES = (("egl", "tiny", "fast"), ("gl",))
CAMERAS = ("static", "gripper")
GOALS = {"egl": 25, "tiny": 6}
PAIR_GOAL = 2.5  # milliseconds, on a quiet core
THREADS_GOAL = 1.8  # from one to two, on two quiet cores
STATES, ROUNDS = 12, 4


def moving(env: Any) -> Iterator[None]:
    """Endless smooth motion, one step at a time."""
    chain, rng, velocity = load_chains("official")[0], np.random.default_rng(0), np.zeros(6)
    while True:
        env.start(chain.robot_obs, chain.scene_obs)
        for _ in range(60):
            velocity = 0.9 * velocity + 0.15 * rng.normal(size=6)
            env.advance(np.append(np.clip(velocity, -1, 1), 1))
            yield


class Contender:
    """One renderer and its world."""

    def __init__(self, renderer: str, assets: str) -> None:
        self.env: Any = make_env("D", assets=assets, render=renderer)
        self._motion = moving(self.env)
        self.times: list[float] = []
        self._draw()  # meshes are read

    def _draw(self) -> float:
        next(self._motion)
        start = time.perf_counter()
        self.env.observe(rgb=CAMERAS, depth=CAMERAS)
        return time.perf_counter() - start

    def run(self) -> None:
        """Draw some pairs."""
        self.times += [self._draw() for _ in range(STATES)]

    @property
    def milliseconds(self) -> float:
        """A pair's median time."""
        return 1000 * statistics.median(self.times)


def race(renderers: tuple[str, ...], assets: str) -> dict[str, float]:
    """Milliseconds a pair of each that works here, measured in turn."""
    found = {}
    for renderer in renderers:
        try:
            found[renderer] = Contender(renderer, assets)
        except CalvinEvalError as error:
            print(f"{renderer:6} not here: {error}")
    for _ in range(ROUNDS):
        for contender in found.values():
            contender.run()
    for contender in found.values():
        contender.env.close()
    return {name: contender.milliseconds for name, contender in found.items()}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and its threads on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def recorded(assets: str, count: int) -> tuple[Scene, list[tuple[Any, Any]]]:
    """A scene, and states with their cameras, for drawing without physics."""
    with make_env("D", assets=assets, render="fast") as env:
        motion, jobs = moving(env), []
        next(motion)
        scene = Scene.read(env.world)
        for _ in range(count):
            next(motion)
            views = [
                (c.view(), c.projection, c.spec.width, c.spec.height)
                for c in (env._cameras[name] for name in CAMERAS)
            ]
            jobs.append((scene.state(env.world), views))
    return scene, jobs


def pairs_per_second(scene: Scene, jobs: list[Any], threads: int, rounds: int = 4) -> float:
    """Of all threads together, each with a renderer of its own."""
    renderers = [FastRenderer(scene) for _ in range(threads)]

    def work(renderer: FastRenderer) -> None:
        for _ in range(rounds):
            for state, views in jobs:
                renderer.draw(state, views)

    for renderer in renderers:
        renderer.draw(*jobs[0])
    workers = [threading.Thread(target=work, args=(renderer,)) for renderer in renderers]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * rounds * len(jobs) / (time.perf_counter() - start)


def python_cost(jobs: list[Any]) -> float:
    """Milliseconds of a call that draws next to nothing: one pixel of an empty scene."""
    state, views = jobs[0]
    empty = type(state)(state.poses[:0], state.colours[:0])
    renderer = FastRenderer(Scene((), (), (), ()))
    small = [(view, projection, 1, 1) for view, projection, *_ in views]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        renderer.draw(empty, small)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure_speed(assets: str) -> dict[str, Any]:
    """Milliseconds a pair, ratios to `fast`, and threads."""
    times: dict[str, float] = {}
    with one_core():
        for renderers in PHASES:
            times |= race(renderers, assets)
    for name, time_ in times.items():
        ratio = time_ / times["fast"]
        goal = f"  (goal: fast {GOALS[name]}x)" if name in GOALS else ""
        goal = f"  (goal {PAIR_GOAL} ms)" if name == "fast" else goal
        print(f"{name:6} {time_:7.2f} ms a pair {1000 / time_:7.1f} pairs/s  {ratio:5.1f}x{goal}")
    scene, jobs = recorded(assets, 40)
    threads = {n: pairs_per_second(scene, jobs, n) for n in sorted({1, 2, os.cpu_count() or 1})}
    for count, rate in threads.items():
        print(f"fast, {count} thread{'s' * (count > 1)}: {rate:7.1f} pairs/s")
    if 2 in threads:
        print(f"one to two threads: {threads[2] / threads[1]:.2f}x (goal {THREADS_GOAL}x)")
    cost = python_cost(jobs)
    print(f"fast, Python's share of a call: {cost:.3f} ms (goal 0.2)")
    return {"milliseconds_a_pair": times, "pairs_per_second_of_threads": threads,
            "python_milliseconds": cost}  # fmt: skip


def main() -> None:
    """Print the numbers and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("rendering.json"))
    options = parser.parse_args()
    assets = best_assets()
    print(f"assets {assets}, {os.cpu_count()} cores, one for each renderer")
    results = {"assets": Path(assets).name, "cores": os.cpu_count(), **measure_speed(assets)}
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
