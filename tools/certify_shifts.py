"""Certify that the expert solves every physically shifted chain, and write the list of draws.

python -m tools.certify_shifts [--axes start,layout] [--levels 1,5] [--chains 100] [--check]

For every axis, level and chain the expert plays the chain's variant. Where it does not do all five
tasks, the variant is drawn again, the attempt counted, until it does or `--attempts` are spent. The
list (`sim/data/certified_shifts.json`) holds the attempts that differ from the first draw; what is
known of other axes and levels, and of more chains, stays. `--check` plays the listed draws and
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from calvin_eval.files import write_atomic
from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.shifts import AXES, LEVELS, Shifts
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import PlayTableEnv, make_env
from calvin_eval.sim.instructions import PACK, load_instructions
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.certificate import LIST, attempts_of, read_list
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.variant import Variant

SCENE = "D"
PHYSICAL = [name for name, axis in AXES.items() if any(map(axis.is_physical, LEVELS))]


class Player:
    """The expert in a world of its own."""

    def __init__(self, assets: str) -> None:
        pack = load_pack(assets)
        self._scene = pack.scene(SCENE)
        self._chains = load_chains("official", scene=self._scene)
        self._env: PlayTableEnv = make_env(SCENE, assets=pack)
        loaded = PolicySpec(
            ckpt="builtin:expert", trust=False, seed=0, options={}, scene=SCENE
        ).load()
        self._runner = ChainRunner(
            self._env,
            TaskOracle(pack),
            loaded.policy,
            instructions=load_instructions(PACK, pack.instructions),
        )

    def done(self, axis: str, level: int, chain: int, attempt: int) -> int:
        """How many of a variant's tasks the expert does."""
        shifts = Shifts(((axis, level),))
        variant = Variant(shifts=shifts, chain=chain, attempts=((axis, attempt),))
        chain_played = shifted(self._chains[chain], shifts, self._scene, variant)
        record = self._runner.run(chain_played).record
        return sum(subtask.success for subtask in record.subtasks)


_player: Player | None = None


def _start(assets: str) -> None:
    global _player
    _player = Player(assets)


def first_solved(job: tuple[str, int, int, int, int]) -> tuple[str, int, int, int | None]:
    """Axis, level, chain and the first attempt that the expert solves; None if there is none.

    Args:
        job: axis, level, chain, the first attempt to be played, and how many there may be.
    """
    assert _player is not None
    axis, level, chain, first, count = job
    for attempt in range(first, first + count):
        if _player.done(axis, level, chain, attempt) == 5:
            return axis, level, chain, attempt
    return axis, level, chain, None


def _play(
    jobs: Sequence[tuple[str, int, int, int, int]], assets: str, processes: int
) -> Iterator[tuple[str, int, int, int | None]]:
    with get_context("spawn").Pool(processes, _start, (assets,)) as pool:
        for number, found in enumerate(pool.imap_unordered(first_solved, jobs), 1):
            print(f"\r{number} of {len(jobs)}", end="", file=sys.stderr, flush=True)
            yield found
    print(file=sys.stderr)


def certified(
    found: Sequence[tuple[str, int, int, int | None]], before: dict[str, Any], chains: int
) -> dict[str, Any]:
    """The list with what was found in it."""
    axes = {axis: dict(levels) for axis, levels in before.get("axes", {}).items()}
    for axis, level in dict.fromkeys((axis, level) for axis, level, *_ in found):
        mine = {chain: tried for a, lv, chain, tried in found if (a, lv) == (axis, level)}
        axes.setdefault(axis, {})[str(level)] = {
            "chains": chains,
            "attempts": {str(c): t for c, t in sorted(mine.items()) if t},
            "unsolved": sorted(chain for chain, tried in mine.items() if tried is None),
        }
    return {"list": "official", "seed": 0, "axes": axes}


def main() -> None:
    """Play, and write or check the list."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--axes", default=",".join(PHYSICAL))
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)))
    parser.add_argument("--chains", type=int, default=100, help="the first so many official ones")
    parser.add_argument("--attempts", type=int, default=10)
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    jobs = [
        (
            axis,
            int(level),
            chain,
            listed if given.check else 0,
            1 if given.check else given.attempts,
        )
        for axis in given.axes.split(",")
        for level in given.levels.split(",")
        if AXES[axis].is_physical(int(level))
        for chain in range(given.chains)
        for listed in [dict(attempts_of(Shifts(((axis, int(level)),)), chain)).get(axis, 0)]
    ]
    found = list(_play(jobs, given.assets, given.processes))
    unsolved = sorted(job[:3] for job in found if job[3] is None)
    if not given.check:
        document = certified(found, read_list(), given.chains)
        write_atomic(Path(LIST), (json.dumps(document, indent=1) + "\n").encode())
    redrawn = sum(bool(job[3]) for job in found)
    print(f"{len(found)} variants, {redrawn} not the first draw, {len(unsolved)} not solved")
    for job in unsolved:
        print("not solved:", *job)
    sys.exit(1 if given.check and unsolved else 0)


if __name__ == "__main__":
    main()
