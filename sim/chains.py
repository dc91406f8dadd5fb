"""Chain lists: which tasks are asked for in a row, and from which states they start.

The official list is upstream's `get_sequences(1000)` (`mees/calvin` fa03f01). It and the dev
list ship precomputed, so that loading them draws no chains; nothing here touches NumPy's global
random state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.sim.chain_files import FileChain, read_chain_file
from calvin_eval.sim.dataset_chains import is_dataset, read_dataset_chains
from calvin_eval.sim.initial_states import FloatArray, initial_robot_obs, initial_scene_obs
from calvin_eval.sim.layouts import fit_to_scene, is_like_d
from calvin_eval.sim.packs import SceneSpec
from calvin_eval.sim.sequences import SymbolicChain, data_file, decode, generate, generate_single
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.symbolic import TASK_NAMES, SymbolicState

_SHIPPED: Final = ("official", "dev")
_UPSTREAM: Final = "upstream:"
_SINGLE: Final = "single:"
MAX_UPSTREAM_CHAINS: Final = 5000

# What `ChainList.sha256` is for the shipped lists: a list is official if its hash is this one.
OFFICIAL_SHA256: Final = BENCHMARK.chain_list
DEV_SHA256: Final = "80b41fb5b30fed617931693f1819899188d85188f2d4303f77fa345173ca9a81"

# Put before the state's text when these lists' block poses are seeded, so that a policy developed
# on them has seen none of the official poses.
_DEV_SALT: Final = "dev:"
_SINGLE_SALT: Final = "single:"


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
        given: whether its list gives these two as numbers; else they follow from
            `initial_state`, which may be empty where they are given.
        variant: what of the world is shifted beside the start state; None for the benchmark's.
        scene: that given numbers were recorded in; None if nobody says so.
    """

    id: int
    initial_state: Mapping[str, str | int]
    tasks: tuple[str, ...]
    robot_obs: FloatArray = field(repr=False)
    scene_obs: FloatArray = field(repr=False)
    given: bool = False
    variant: Variant | None = None
    scene: str | None = None

    def __post_init__(self) -> None:
        for array in (self.robot_obs, self.scene_obs):
            array.setflags(write=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes the arrays read-only again: a pickle forgets that they were."""
        self.__dict__.update(state)
        self.__post_init__()

    @classmethod
    def draw(
        cls,
        chain_id: int,
        initial_state: Mapping[str, str | int],
        tasks: Sequence[str],
        *,
        salt: str = "",
        scene: SceneSpec | None = None,
        offsets: FloatArray | None = None,
    ) -> Chain:
        """Makes a chain that starts in a symbolic state, with block poses drawn for it.

        Args:
            chain_id: its id.
            initial_state: all eight keys, in any order.
            tasks: names of its subtasks.
            salt: put before the text that seeds the poses; "" gives the benchmark's own.
            scene: the start state is fitted to it; None leaves that of scene D.
            offsets: (3, 2) metres along x and y by which the red, the blue and the pink block are
                moved before that; not at all by default.

        Raises:
            UsageError: if no chain can start in the state.
        """
        scene_obs = initial_scene_obs(initial_state, salt)
        if offsets is not None:
            scene_obs[6:].reshape(3, 6)[:, :2] += offsets
        return cls(
            id=chain_id,
            initial_state=initial_state,
            tasks=tuple(tasks),
            robot_obs=initial_robot_obs(),
            scene_obs=scene_obs if scene is None else fit_to_scene(scene_obs, scene),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainList:
    """A named list of chains.

    Attributes:
        name: "official", "dev", "upstream:N", "single:N" or the name of the file that it was
            read from.
        chains: the chains; a chain's id is its index.
        fitted_from: hash of the same list with the start states of scene D, if these are fitted
            to another scene.
    """

    name: str
    chains: tuple[Chain, ...]
    fitted_from: str = ""

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

    @property
    def unfitted_sha256(self) -> str:
        """`sha256` of the list before its start states were fitted to a scene."""
        return self.fitted_from or self.sha256

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, chain_id: int) -> Chain:
        return self.chains[chain_id]

    def __iter__(self) -> Iterator[Chain]:
        return iter(self.chains)


def is_generated(name: str) -> bool:
    """Says whether a list of this name is made by this package, and not read from a file."""
    return name in _SHIPPED or name.startswith((_UPSTREAM, _SINGLE))


def name_of_list(name_or_path: str | Path) -> str:
    """Returns the name that a list has in a run's header: its own, or that of its file."""
    name = str(name_or_path)
    if is_generated(name):
        return name
    # A file may be called like one of our lists, which has other poses.
    file = Path(name_or_path).name
    return f"./{file}" if is_generated(file) else file


def salt_of(name: str) -> str:
    """Returns what salts the block poses of a list, by its name."""
    return {"dev": _DEV_SALT}.get(name, _SINGLE_SALT if name.startswith(_SINGLE) else "")


def _file_list(name: str, entries: Iterable[FileChain]) -> ChainList:
    """A user's list: start states are drawn for symbolic states, or those that it gives."""
    made = []
    for i, entry in enumerate(entries):
        state, scene_obs, robot_obs = entry.initial_state, entry.scene_obs, entry.robot_obs
        made.append(
            Chain(
                id=i,
                initial_state={} if state is None else state,
                tasks=entry.tasks,
                robot_obs=initial_robot_obs() if robot_obs is None else robot_obs,
                scene_obs=initial_scene_obs(state or {}) if scene_obs is None else scene_obs,
                given=scene_obs is not None,
                scene=entry.scene,
            )
        )
    return ChainList(name=name, chains=tuple(made))


def _chain_list(name: str, entries: Iterable[SymbolicChain]) -> ChainList:
    """Adds ids and initial observations; equal states share their arrays."""
    salt, robot_obs, rng = salt_of(name), initial_robot_obs(), np.random.RandomState(0)
    scenes: dict[SymbolicState, FloatArray] = {}
    chains = []
    for i, (state, tasks) in enumerate(entries):
        if state not in scenes:
            scenes[state] = initial_scene_obs(state, salt, rng)
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
    return _chain_list(name, decode(data_file(name).read_text(encoding="utf-8")))


@cache
def _upstream(name: str) -> ChainList:
    """Returns upstream's own list of N chains."""
    text = name.removeprefix(_UPSTREAM)
    if not 1 <= (count := _count(text)) <= MAX_UPSTREAM_CHAINS:
        raise UsageError(
            f"chain list {name!r}: expected {_UPSTREAM}N with N from 1 to {MAX_UPSTREAM_CHAINS}, "
            f"found {text!r}"
        )
    return _chain_list(f"{_UPSTREAM}{count}", generate(count))


@cache
def _single(name: str) -> ChainList:
    """Returns N chains of one task each, for every task or for those that are named."""
    text, _, named = name.removeprefix(_SINGLE).partition(":")
    tasks = tuple(named.split("+")) if named else TASK_NAMES
    for task in tasks:
        if task not in TASK_NAMES:
            raise UnknownNameError(f"task in chain list {name!r}", task, TASK_NAMES)
    if not (count := _count(text)):
        raise UsageError(
            f"chain list {name!r}: expected {_SINGLE}N or {_SINGLE}N:TASK+TASK with N from 1 up, "
            f"found {text!r}"
        )
    entries = generate_single(count, tasks)
    if not entries:
        raise UsageError(
            f"chain list {name!r}: no chain starts with {', '.join(tasks)}, which needs another "
            "task before it"
        )
    return _chain_list(name, entries)


def _count(text: str) -> int:
    """Returns a number of up to nine digits; 0 for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def load_chains(
    name_or_path: str | Path = "official", *, scene: SceneSpec | None = None
) -> ChainList:
    """Loads a chain list.

    Args:
        name_or_path: one of

            - "official": the benchmark's 1000 chains.
            - "dev": 1000 other chains from the same generator with other seeds. None of its
              pairs of state and tasks is official. The 192 symbolic states are the same ones,
              so the text that seeds the block poses is salted: positions are the same few, but
              which block is where on the table, and all yaws, are drawn anew.
            - "upstream:N": upstream's own `get_sequences(N)`, generated on demand. It is not
              the first N of the official list.
            - "single:N": chains of one task, N for each task that a chain can start with (at most
              96), with poses of their own; "single:N:TASK+TASK" for these tasks only.
            - a JSON file `[[initial_state, [task, ...]], ...]`, as upstream's users keep them, or
              with other entries, see `read_chain_file`; chains may have 1 to 50 tasks, and poses
              are those of the benchmark where the file gives none;
            - the folder of a data set: a chain for every annotation, see `read_dataset_chains`.
        scene: start states are fitted to it, so that they mean there what they mean in scene D;
            None leaves those of scene D. Those that a file gives as numbers stay as they are.

    Returns:
        The list; fitted start states give it another hash.

    Raises:
        UsageError: if there is no such list, or the file is not one.
    """
    chains = _find(name_or_path)
    if scene is None or is_like_d(scene):
        return chains
    fitted = tuple(
        c if c.given else replace(c, scene_obs=fit_to_scene(c.scene_obs, scene)) for c in chains
    )
    return ChainList(name=chains.name, chains=fitted, fitted_from=chains.sha256)


def _find(name_or_path: str | Path) -> ChainList:
    """Returns a list with the start states of scene D."""
    name = str(name_or_path)
    if name in _SHIPPED:
        return _shipped(name)
    if name.startswith(_UPSTREAM):
        return _upstream(name)
    if name.startswith(_SINGLE):
        return _single(name)
    path = Path(name_or_path).expanduser()
    if is_dataset(path):
        return _file_list(name_of_list(name_or_path), read_dataset_chains(path))
    if path.is_file():
        return _file_list(name_of_list(name_or_path), read_chain_file(path))
    if path.suffix or path.name != name:
        raise UsageError(
            f"chain list {name}: expected a JSON file, found none there; "
            f"give the path of a file or one of {', '.join(_SHIPPED)}, {_UPSTREAM}N, {_SINGLE}N"
        )
    raise UnknownNameError(
        "chain list", name, [*_SHIPPED, f"{_UPSTREAM}N", f"{_SINGLE}N", "PATH.json"]
    )
