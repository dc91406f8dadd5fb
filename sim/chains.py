"""Chain lists: which tasks are asked for in a row, and from which states they start.

The official list is upstream's `get_sequences(1000)` (`mees/calvin` fa03f01). It and the dev
list ship precomputed, so that loading them draws no chains; nothing here touches NumPy's global
random state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.sim.chain_files import read_chain_file
from calvin_eval.sim.initial_states import FloatArray, draw_scene_obs, initial_robot_obs
from calvin_eval.sim.sequences import SymbolicChain, data_file, decode, generate, generate_single
from calvin_eval.sim.symbolic import TASK_NAMES, SymbolicState

SHIPPED: Final = ("official", "dev")
UPSTREAM: Final = "upstream:"
SINGLE: Final = "single:"
MAX_UPSTREAM_CHAINS: Final = 5000

# What `ChainList.sha256` is for the shipped lists: a list is official if its hash is this one.
OFFICIAL_SHA256: Final = "45250061baf5e069c043d58624c4f98a109085a0a321744988e55cacecd22a67"
DEV_SHA256: Final = "80b41fb5b30fed617931693f1819899188d85188f2d4303f77fa345173ca9a81"

# Put before the state's text when the dev list's block poses are seeded, so that a policy
# developed on that list has seen none of the official poses.
DEV_SALT: Final = "dev:"
SINGLE_SALT: Final = "single:"


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """Subtasks to be done one after the other from a given state.

    Attributes:
        id: position in the list that the chain comes from.
        initial_state: led, lightbulb, slider, drawer, red_block, blue_block, pink_block and
            grasped, in this order, as plain Python ints and strings.
        tasks: names of the subtasks; five in the official list.
        robot_obs: (15,) float64, read-only: the robot's initial state in metres and radians.
        scene_obs: (24,) float64, read-only: the table's and the blocks' initial state.
    """

    id: int
    initial_state: Mapping[str, str | int]
    tasks: tuple[str, ...]
    robot_obs: FloatArray = field(repr=False)
    scene_obs: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        for array in (self.robot_obs, self.scene_obs):
            array.setflags(write=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes the arrays read-only again: a pickle forgets that they were."""
        self.__dict__.update(state)
        self.__post_init__()


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainList:
    """A named list of chains.

    Attributes:
        name: "official", "dev", "upstream:N", "single:N" or the name of the file that it was
            read from.
        chains: the chains; a chain's id is its index.
    """

    name: str
    chains: tuple[Chain, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of all states, tasks and initial observations; the name does not enter."""
        digest = hashlib.sha256(f"calvin-eval chain list 1\n{len(self)}\n".encode())
        for chain in self.chains:
            entry = [list(chain.initial_state.items()), chain.tasks]
            digest.update(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            for array in (chain.robot_obs, chain.scene_obs):
                digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, chain_id: int) -> Chain:
        return self.chains[chain_id]

    def __iter__(self) -> Iterator[Chain]:
        return iter(self.chains)


def _chain_list(name: str, entries: Iterable[SymbolicChain], salt: str = "") -> ChainList:
    """Adds ids and initial observations; equal states share their arrays."""
    robot_obs = initial_robot_obs()
    rng = np.random.RandomState(0)
    scenes: dict[SymbolicState, FloatArray] = {}
    chains = []
    for i, (state, tasks) in enumerate(entries):
        if state not in scenes:
            scenes[state] = draw_scene_obs(state, salt, rng)
        chains.append(
            Chain(
                id=i,
                initial_state=state,
                tasks=tasks,
                robot_obs=robot_obs,
                scene_obs=scenes[state],
            )
        )
    return ChainList(name=name, chains=tuple(chains))


@cache
def _shipped(name: str) -> ChainList:
    """Returns a list that is part of the package."""
    entries = decode(data_file(name).read_text(encoding="utf-8"))
    return _chain_list(name, entries, salt=DEV_SALT if name == "dev" else "")


@cache
def _upstream(name: str) -> ChainList:
    """Returns upstream's own list of N chains."""
    text = name.removeprefix(UPSTREAM)
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_UPSTREAM_CHAINS:
        raise UsageError(
            f"chain list {name!r}: expected {UPSTREAM}N with N from 1 to {MAX_UPSTREAM_CHAINS}, "
            f"found {text!r}"
        )
    return _chain_list(f"{UPSTREAM}{int(text)}", generate(int(text)))


@cache
def _single(name: str) -> ChainList:
    """Returns N chains of one task each, for every task or for those that are named."""
    count, _, named = name.removeprefix(SINGLE).partition(":")
    tasks = tuple(named.split("+")) if named else TASK_NAMES
    for task in tasks:
        if task not in TASK_NAMES:
            raise UnknownNameError(f"task in chain list {name!r}", task, TASK_NAMES)
    if not (count.isascii() and count.isdigit() and int(count)):
        raise UsageError(
            f"chain list {name!r}: expected {SINGLE}N or {SINGLE}N:TASK+TASK with N from 1 up, "
            f"found {count!r}"
        )
    entries = generate_single(int(count), tasks)
    if not entries:
        raise UsageError(
            f"chain list {name!r}: no chain starts with {', '.join(tasks)}, which needs another "
            "task before it"
        )
    return _chain_list(name, entries, salt=SINGLE_SALT)


def load_chains(name_or_path: str | Path = "official") -> ChainList:
    """Loads a chain list.

    Args:
        name_or_path: one of

            - "official": the benchmark's 1000 chains.
            - "dev": 1000 other chains from the same generator with other seeds. None of its
              pairs of state and tasks is official. The 192 symbolic states are the same ones,
              so the text that seeds the block poses is salted (`DEV_SALT`): positions are the
              same few, but which block is where on the table, and all yaws, are drawn anew.
            - "upstream:N": upstream's own `get_sequences(N)`, generated on demand. It is not
              the first N of the official list.
            - "single:N": chains of one task, N for each task that a chain can start with (at most
              96), with poses of their own; "single:N:TASK+TASK" for these tasks only.
            - a JSON file `[[initial_state, [task, ...]], ...]`, as upstream's users keep them;
              chains may have 1 to 10 tasks, and poses are those of the benchmark.

    Raises:
        UsageError: if there is no such list, or the file is not one.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        return _shipped(name)
    if name.startswith(UPSTREAM):
        return _upstream(name)
    if name.startswith(SINGLE):
        return _single(name)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _chain_list(path.name, read_chain_file(path))
    if path.suffix or path.name != name:
        raise UsageError(
            f"chain list {name}: expected a JSON file, found none there; "
            f"give the path of a file or one of {', '.join(SHIPPED)}, {UPSTREAM}N, {SINGLE}N"
        )
    raise UnknownNameError(
        "chain list", name, [*SHIPPED, f"{UPSTREAM}N", f"{SINGLE}N", "PATH.json"]
    )


def parse_selection(text: str, total: int) -> tuple[int, ...]:
    """Reads a selection of chain ids such as "3,17,40-49".

    Args:
        text: ids and ranges, both ends included, separated by commas.
        total: length of the chain list; ids run from 0 to total - 1.

    Returns:
        The ids in ascending order, each once.

    Raises:
        UsageError: if the text cannot be read or an id is not in the list.
    """
    ids: set[int] = set()
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-", 1)]
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise UsageError(
                f"chain selection {text!r}: expected ids and ranges such as 3,17,40-49, "
                f"found {part.strip()!r}"
            )
        first, last = int(ends[0]), int(ends[-1])
        if first > last:
            raise UsageError(
                f"chain selection {text!r}: expected a range from low to high, "
                f"found {part.strip()!r}; did you mean {last}-{first}?"
            )
        _check_ids((first, last), total)
        ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def _check_ids(ids: Iterable[int], total: int) -> None:
    """Raises if a chain id is not in a list of `total` chains."""
    for i in ids:
        if not 0 <= i < total:
            raise UsageError(f"chain {i}: expected an id from 0 to {total - 1} (the list's last)")


def select(
    chain_list: ChainList,
    num_chains: int | None = None,
    selection: str | Sequence[int] | None = None,
) -> tuple[Chain, ...]:
    """Returns some chains of a list; their ids stay those of the whole list.

    Args:
        chain_list: the list.
        num_chains: take the first so many chains; all if neither argument is given.
        selection: take these ids, as a text for `parse_selection` or as numbers.

    Raises:
        UsageError: if both are given, or ask for chains that the list does not have.
    """
    if selection is not None:
        if num_chains is not None:
            raise UsageError("expected a number of chains or a selection of ids, found both")
        if isinstance(selection, str):
            selection = parse_selection(selection, len(chain_list))
        if not selection:
            raise UsageError("chain selection: expected at least one id, found none")
        _check_ids(selection, len(chain_list))
        return tuple(chain_list[i] for i in sorted(set(selection)))
    if num_chains is None:
        return chain_list.chains
    if not 1 <= num_chains <= len(chain_list):
        raise UsageError(
            f"number of chains: expected 1 to {len(chain_list)} "
            f"(the length of chain list {chain_list.name!r}), found {num_chains}"
        )
    return chain_list.chains[:num_chains]
