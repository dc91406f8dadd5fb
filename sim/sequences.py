"""The generator of CALVIN's chains, and the hash that seeds their block poses.

The random draws are those of upstream's `get_sequences` (`mees/calvin` fa03f01,
`calvin_models/calvin_agent/evaluation/multistep_sequences.py`), made many at a time: seconds
instead of more than a minute.

Running the module regenerates the lists that ship with the package:
`python -m calvin_eval.sim.sequences` compares them, `--write` replaces them.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from calvin_eval.protocol import BENCHMARK
from calvin_eval.sim.symbolic import (
    TASK_CATEGORIES,
    TASK_NAMES,
    SymbolicState,
    initial_states,
    outcomes,
)

SymbolicChain: TypeAlias = "tuple[SymbolicState, tuple[str, ...]]"
IntArray: TypeAlias = npt.NDArray[np.int8]

DATA_DIR: Final = Path(__file__).with_name("data")


def fnv1_32(text: str) -> int:
    """Returns the hash that seeds upstream's block poses, 0 <= hash < 2**32.

    This is `fnv1_32` of the package pyhash 0.9.3: FNV-1 (multiply, then xor) over UTF-16-LE
    with offset basis 0. The textbook's basis 0x811c9dc5 over UTF-8 gives other poses.
    """
    value = 0
    for byte in text.encode("utf-16-le"):
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


@cache
def _transitions() -> npt.NDArray[np.int16]:
    """Returns the next state's index by (state, task), -1 where the task is not allowed.

    The first 192 states are the initial ones; the others are those reachable from them.
    """
    index = {state: i for i, state in enumerate(initial_states())}
    queue = deque(index)
    rows = []
    while queue:
        state = queue.popleft()
        row = []
        for task in TASK_NAMES:
            after = outcomes(state, task)
            if len(after) == 1 and after[0] not in index:
                index[after[0]] = len(index)
                queue.append(after[0])
            row.append(index[after[0]] if len(after) == 1 else -1)
        rows.append(row)
    return np.array(rows, np.int16)


# Fisher-Yates on n names draws a number in 0..i for i = n - 1 down to 1.
_BOUNDS: Final = np.arange(len(TASK_NAMES), 1, -1)
_BATCH: Final = 4096


def _final_element(swaps: IntArray, position: int) -> IntArray:
    """Returns what a shuffle puts at `position`, by following the swaps backwards.

    Args:
        swaps: (33, n), the partner of i = 33, 32, .. 1 in each of n shuffles.
        position: 0 to 33.

    Returns:
        (n,) values 0 to 33.
    """
    at = np.full(swaps.shape[1], position, np.int8)
    for i in range(1, len(TASK_NAMES)):
        partner = swaps[-i]
        at = np.where(at == i, partner, np.where(at == partner, np.int8(i), at))
    return at


def draw_sequences(start: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yields the valid task sequences that NumPy's legacy generator draws for a state.

    The draws are those of `RandomState(seed).choice(34, 5, replace=False)`, one after the
    other: five names at the front of a shuffle. They are made here many at a time, as bounded
    integers, which the legacy generator draws from the same stream in the same way.

    Args:
        start: index into `initial_states()`.
        seed: of the generator.

    Yields:
        Five indices into `TASK_NAMES`.
    """
    rng = np.random.RandomState(seed)
    table = _transitions()
    category = np.array([1 << c for c in TASK_CATEGORIES.values()], np.int16)
    while True:
        drawn = rng.randint(0, _BOUNDS, size=(_BATCH, len(_BOUNDS)))
        swaps = np.ascontiguousarray(drawn.T.astype(np.int8))
        state = np.full(_BATCH, start, np.int16)
        used = np.zeros(_BATCH, np.int16)
        tasks: list[IntArray] = []
        for position in range(BENCHMARK.chain_length):
            task = _final_element(swaps, position)
            state = table[state, task]
            keep = (state >= 0) & ((used & category[task]) == 0)
            used = (used | category[task])[keep]
            swaps, state = swaps[:, keep], state[keep]
            tasks = [t[keep] for t in (*tasks, task)]
        yield from zip(*(t.tolist() for t in tasks), strict=True)


def _sequences_from(
    start: int, count: int, seed: int, *, exclude: Collection[SymbolicChain] | None
) -> list[SymbolicChain]:
    """Returns the first `count` chains of one state, new ones only if `exclude` is given."""
    state = initial_states()[start]
    drawn = (
        (state, tuple(TASK_NAMES[i] for i in indices)) for indices in draw_sequences(start, seed)
    )
    if exclude is None:
        return list(islice(drawn, count))
    fresh: dict[SymbolicChain, None] = {}
    while len(fresh) < count:
        if (chain := next(drawn)) not in exclude:
            fresh[chain] = None
    return list(fresh)


def generate(
    num_chains: int,
    *,
    first_seed: int = 0,
    shuffle_seed: int = 0,
    exclude: Collection[SymbolicChain] | None = None,
) -> list[SymbolicChain]:
    """Generates a list of chains as upstream's `get_sequences(num_chains)` does.

    The chains are spread over the 192 states as evenly as `numpy.array_split` does, drawn per
    state, and shuffled. A shorter list is not the beginning of a longer one.

    Args:
        num_chains: at least 1.
        first_seed: state i draws from a generator seeded with `first_seed + i`.
        shuffle_seed: of the generator that shuffles the list.
        exclude: chains to leave out; if given (even if empty) the list has no repetitions.

    Returns:
        Pairs of initial state and five task names.
    """
    states = len(initial_states())
    each, extra = divmod(num_chains, states)
    counts = [each + (i < extra) for i in range(states)]
    jobs = [(i, count, first_seed + i) for i, count in enumerate(counts) if count]
    # NumPy draws without holding the interpreter's lock, so that threads help.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda job: _sequences_from(*job, exclude=exclude), jobs)
        chains = [chain for part in parts for chain in part]
    np.random.RandomState(shuffle_seed).shuffle(chains)  # type: ignore[arg-type]
    return chains


# The dev list: the official generator with seeds that no official list uses.
DEV_FIRST_SEED: Final = 1_000_000
DEV_SHUFFLE_SEED: Final = 1


def generate_official() -> list[SymbolicChain]:
    """Generates the benchmark's 1000 chains: upstream's `get_sequences(1000)`."""
    return generate(BENCHMARK.chains)


def generate_dev(official: Collection[SymbolicChain]) -> list[SymbolicChain]:
    """Generates 1000 chains for development: none is official, none is there twice."""
    return generate(
        BENCHMARK.chains,
        first_seed=DEV_FIRST_SEED,
        shuffle_seed=DEV_SHUFFLE_SEED,
        exclude=frozenset(official),
    )


def generate_single(count: int, tasks: Collection[str]) -> list[SymbolicChain]:
    """Generates chains of one task each: what a policy can do, skill by skill.

    Args:
        count: chains per task, from different initial states.
        tasks: names; those that no initial state allows (it takes a block in the hand, say, to
            place one) get no chain.

    Returns:
        The chains, task by task in the order of `TASK_NAMES`; fewer than `count` for a task that
        fewer states allow.
    """
    chains: list[SymbolicChain] = []
    for i, task in enumerate(TASK_NAMES):
        if task in tasks:
            able = [state for state in initial_states() if len(outcomes(state, task)) == 1]
            order = np.random.RandomState(i).permutation(len(able))
            chains += [(able[j], (task,)) for j in order[:count]]
    return chains


def encode(chains: Collection[SymbolicChain]) -> str:
    """Returns the text of a shipped data file: per chain its state's and its tasks' indices."""
    state_index = {state: i for i, state in enumerate(initial_states())}
    task_index = {task: i for i, task in enumerate(TASK_NAMES)}
    rows = [[state_index[state], *(task_index[t] for t in tasks)] for state, tasks in chains]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f"[\n{lines}\n]\n"


def decode(text: str) -> list[SymbolicChain]:
    """Returns the chains of a shipped data file."""
    states = initial_states()
    return [(states[i], tuple(TASK_NAMES[t] for t in tasks)) for i, *tasks in json.loads(text)]


def data_file(name: str) -> Path:
    """Returns where a shipped list lies."""
    return DATA_DIR / f"chains_{name}.json"


def main(arguments: list[str]) -> int:
    """Compares the shipped lists with the rules, or with `--write` replaces them."""
    official = generate_official()
    texts = {"official": encode(official), "dev": encode(generate_dev(official))}
    if arguments == ["--write"]:
        DATA_DIR.mkdir(exist_ok=True)
        for name, text in texts.items():
            data_file(name).write_bytes(text.encode())
    stale = [n for n, text in texts.items() if data_file(n).read_bytes() != text.encode()]
    if stale:
        sys.stderr.write(f"not what the rules give: {', '.join(stale)}; run with --write\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
