"""What is recorded: chains of tasks, with start states that the benchmark does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal, TypeAlias

import numpy as np

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.sim.chains import Chain, ChainList
from calvin_eval.sim.initial_states import FloatArray, draw_scene_obs, initial_robot_obs
from calvin_eval.sim.layouts import fit_to_scene
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.symbolic import (
    TASK_CATEGORIES,
    TASK_NAMES,
    SymbolicState,
    initial_states,
    outcomes,
)

Split: TypeAlias = Literal["training", "validation"]
SPLITS: Final[tuple[Split, ...]] = ("training", "validation")

# Half the width of the area in which a block's start is drawn around the benchmark's place, in
# metres along x and y: on the table and in the cabinet's slots, where a hand must fit beside it.
_TABLE_SPREAD: Final = (0.02, 0.015)
_SLOT_SPREAD: Final = (0.01, 0.0)

_TRIES = 100  # walks that may end too early; long chains may not exist from a state


@dataclass(frozen=True, kw_only=True)
class EpisodePlan:
    """One episode that is to be recorded.

    Attributes:
        split: the folder that it goes to.
        scene: A, B, C or D.
        chain: its tasks and its start state; the id is the episode's number in its split.
    """

    split: Split
    scene: str
    chain: Chain

    @property
    def number(self) -> int:
        """Position in the split, from 0."""
        return self.chain.id


@dataclass(frozen=True, kw_only=True)
class ChainRules:
    """What chains are drawn.

    Attributes:
        length: tasks of a chain, 1 or more; fewer where the rules allow no more.
        tasks: names of those that are drawn from.
        seed: any integer >= 0.

    Raises:
        UsageError: a number that cannot be meant, or no task.
        UnknownNameError: a task that does not exist.
    """

    length: int = 5
    tasks: tuple[str, ...] = TASK_NAMES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or self.seed < 0 or not self.tasks:
            raise UsageError(
                "expected chains of at least 1 task, a seed of at least 0 and tasks to draw from; "
                f"found {self.length}, {self.seed} and {len(self.tasks)} tasks"
            )
        for task in self.tasks:
            if task not in TASK_NAMES:
                raise UnknownNameError("task", task, TASK_NAMES)


def plan_split(
    split: Split, pack: AssetPack, scenes: Sequence[str], *, episodes: int, rules: ChainRules
) -> list[EpisodePlan]:
    """Draw the episodes of a split; nothing but the arguments decides what they are.

    Every task is drawn among those that the benchmark would allow next, rare ones first, so that
    all come up about as often as the rules let them. Block poses depend on split, seed and
    number, so that training shares none with validation, and neither with the benchmark.

    Args:
        split: `training` or `validation`.
        pack: the assets, for the scenes' blocks.
        scenes: recorded one after the other, each its share of the episodes.
        episodes: how many.
        rules: what chains are drawn.

    Raises:
        UsageError: a number that cannot be meant.
    """
    if episodes < 0:
        raise UsageError(f"expected at least 0 episodes, found {episodes}")
    rng = np.random.default_rng([rules.seed, SPLITS.index(split)])
    counts: Counter[str] = Counter()
    plans = []
    shares = np.array_split(np.arange(episodes), len(scenes))
    for scene, numbers in zip(scenes, shares, strict=True):
        for number in map(int, numbers):
            chain = _draw(f"{split}:{rules.seed}:{number}:", number, rules, counts, rng)
            plans.append(EpisodePlan(split=split, scene=scene, chain=_place(chain, pack, scene)))
    return plans


def _draw(
    salt: str, number: int, rules: ChainRules, counts: Counter[str], rng: np.random.Generator
) -> Chain:
    """A chain for scene D, with poses for this salt."""
    starts = _starts(rules.tasks)
    start = starts[int(rng.integers(len(starts)))]
    tasks: list[str] = []
    for _ in range(_TRIES):
        if len(tasks) < rules.length:
            tasks = max(tasks, _walk(start, rules, counts, rng), key=len)
    counts.update(tasks)
    scene_obs = np.array(draw_scene_obs(start, salt, np.random.RandomState(0)))
    for pose in scene_obs[6:].reshape(3, 6):
        spread = _SLOT_SPREAD if pose[1] > 0 else _TABLE_SPREAD
        pose[:2] += rng.uniform(-1, 1, 2) * spread
    return Chain(
        id=number,
        initial_state=start,
        tasks=tuple(tasks),
        robot_obs=initial_robot_obs(),
        scene_obs=scene_obs,
    )


@cache
def _starts(tasks: tuple[str, ...]) -> list[SymbolicState]:
    """Initial states in which one of a few tasks is possible."""
    return [state for state in initial_states() if _allowed(state, (), tasks)]


def _walk(
    state: SymbolicState, rules: ChainRules, counts: Mapping[str, int], rng: np.random.Generator
) -> list[str]:
    """Tasks one after the other, until there are enough or none is allowed."""
    tasks: list[str] = []
    while len(tasks) < rules.length and (allowed := _allowed(state, tasks, rules.tasks)):
        weights = np.array([1 / (1 + counts.get(task, 0)) ** 2 for task in allowed])
        tasks.append(allowed[int(rng.choice(len(allowed), p=weights / weights.sum()))])
        state = outcomes(state, tasks[-1])[0]
    return tasks


def _allowed(state: SymbolicState, tasks: Sequence[str], among: Collection[str]) -> list[str]:
    """Tasks that are possible in exactly one way and unlike those before, as the benchmark's."""
    used = {TASK_CATEGORIES[task] for task in tasks}
    return [
        task
        for task in TASK_NAMES
        if task in among and TASK_CATEGORIES[task] not in used and len(outcomes(state, task)) == 1
    ]


def _place(chain: Chain, pack: AssetPack, scene: str) -> Chain:
    """The chain with the start state that means the same in another scene."""
    fitted = fit_to_scene(ChainList(name="drawn", chains=(chain,)), pack.scene(scene))
    scene_obs: FloatArray = fitted[0].scene_obs
    return replace(chain, scene_obs=scene_obs)
