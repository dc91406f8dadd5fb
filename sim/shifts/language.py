"""What is said under the axis `language`: another wording of the instruction, or a probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.shifts import Shifts
from calvin_eval.sim.instructions import PACK, InstructionSet
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.shifts.wordings import wordings
from calvin_eval.sim.symbolic import (
    INITIAL_VALUES,
    TASK_CATEGORIES,
    TASK_NAMES,
    SymbolicState,
    outcomes,
)

AXIS: Final = "language"
_SYLLABLES: Final = (
    "bo", "fim", "gra", "hul", "jep", "kal", "lun", "mip", "nev", "pru", "quo", "sil", "tov",
    "wex", "zam", "dro",
)  # fmt: skip


class Asked(Protocol):
    """The part of a `Chain` that what is said depends on."""

    @property
    def id(self) -> int:
        """Position in the chain list."""

    @property
    def initial_state(self) -> Mapping[str, str | int]:
        """The symbolic state that it starts from; empty if unknown."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the subtasks."""

    @property
    def variant(self) -> Variant | None:
        """What is shifted of it."""


def instruction_of(chain: Asked, position: int, instructions: InstructionSet) -> str:
    """What the policy is told in a subtask: the instruction, or what the run's shifts make of it.

    Args:
        chain: with its variant.
        position: of the subtask, from 0.
        instructions: of the run.

    Raises:
        UsageError: there is no sentence for the subtask.
        UnknownNameError: it is none of the 34 tasks.
    """
    task, variant = chain.tasks[position], chain.variant
    level = None if variant is None else variant.level(AXIS)
    if variant is None or level is None:
        return instructions.text(task, chain.id, position)
    if task not in TASK_NAMES:
        raise UnknownNameError("task", task, TASK_NAMES)
    if isinstance(level, int):
        choice = wordings(task, level)
        return choice[_draw(variant, f"wording {position}", len(choice))]
    if level == "empty":
        return ""
    if level == "another":
        return instructions.text(told_task(chain, position), chain.id, position)
    words = instructions.text(task, chain.id, position).split()
    if level == "shuffled":
        return _shuffled(variant, position, words)
    return _nonsense(variant, position, len(words))


def told_task(chain: Asked, position: int) -> str:
    """The task that `language=another` names instead of the chain's own.

    It is of another kind than the chain's own task, so that doing one is not doing the other, and
    one that could be done in the state in which the subtask begins, if the chain says that state
    and there is one: a hand with a block in it can do little else than put it down.
    """
    variant, task = chain.variant, chain.tasks[position]
    assert variant is not None
    others = [t for t in TASK_NAMES if TASK_CATEGORIES[t] != TASK_CATEGORIES[task]]
    state = _state_before(chain, position)
    possible = [t for t in others if state is not None and outcomes(state, t)] or others
    return possible[_draw(variant, f"another {position}", len(possible))]


def check_instructions(shifts: Shifts, instructions: InstructionSet) -> None:
    """Check that what a run says and what its shifts make of it go together.

    Raises:
        UsageError: other wordings of sentences that are not the pack's, or another task's sentence
            where sentences stand per chain.
    """
    level = shifts.level(AXIS)
    if isinstance(level, int) and instructions.name != PACK:
        raise UsageError(
            f"expected protocol.instructions={PACK} with language={level}, which says the same in "
            f"other words, found {instructions.name}"
        )
    if level == "another" and instructions.by_chain:
        raise UsageError(
            f"expected instructions by task with language={level}, found {instructions.name} with "
            "sentences by chain"
        )


def _draw(variant: Variant, quantity: str, count: int) -> int:
    return int(variant.stream(AXIS, quantity).randint(count))


def _shuffled(variant: Variant, position: int, words: list[str]) -> str:
    """The words in another order, if they have another one."""
    stream, found = variant.stream(AXIS, f"order {position}"), list(words)
    while found == words and len(set(words)) > 1:
        found = [words[i] for i in stream.permutation(len(words))]
    return " ".join(found)


def _nonsense(variant: Variant, position: int, count: int) -> str:
    """As many made-up words."""
    stream = variant.stream(AXIS, f"nonsense {position}")
    lengths = stream.randint(1, 4, count)
    return " ".join(
        "".join(_SYLLABLES[i] for i in stream.randint(len(_SYLLABLES), size=n)) for n in lengths
    )


def _state_before(chain: Asked, position: int) -> SymbolicState | None:
    """The symbolic state in which a subtask begins; None if the chain does not say."""
    if {*chain.initial_state} != {*INITIAL_VALUES}:
        return None
    state = SymbolicState.initial(chain.initial_state)
    for task in chain.tasks[:position]:
        after = outcomes(state, task)
        if len(after) != 1:
            return None
        state = after[0]
    return state
