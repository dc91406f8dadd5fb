"""What is recorded: chains of tasks, with start states that the benchmark does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.symbolic import (
    BLOCKS,
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
            start, tasks = _draw(rules, counts, rng)
            chain = Chain.draw(
                number,
                start,
                tasks,
                salt=f"{split}:{rules.seed}:{number}:",
                scene=pack.scene(scene),
                offsets=_offsets(start, rng),
            )
            plans.append(EpisodePlan(split=split, scene=scene, chain=chain))
    return plans


def _draw(
    rules: ChainRules, counts: Counter[str], rng: np.random.Generator
) -> tuple[SymbolicState, list[str]]:
    """Draws a symbolic start and tasks from it, and counts them."""
    starts = _starts(rules.tasks)
    start = starts[int(rng.integers(len(starts)))]
    tasks: list[str] = []
    for _ in range(_TRIES):
        if len(tasks) < rules.length:
            tasks = max(tasks, _walk(start, rules, counts, rng), key=len)
    counts.update(tasks)
    return start, tasks


def _offsets(start: SymbolicState, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws how far each block stands from the benchmark's place: (3, 2) metres along x and y."""
    spreads = [_TABLE_SPREAD if start[block] == "table" else _SLOT_SPREAD for block in BLOCKS]
    return rng.uniform(-1, 1, (3, 2)) * spreads


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
