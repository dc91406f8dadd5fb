"""The symbolic world of CALVIN: its states, and what each task needs and changes.

Facts from `mees/calvin` fa03f01, `calvin_models/calvin_agent/evaluation/multistep_sequences.py`;
the official chains that they give are checked against RoboVLMs' copy of them, 1000 of 1000.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final, TypeAlias

from calvin_eval.errors import UsageError

Value: TypeAlias = "str | int"

BLOCKS: Final = ("red_block", "blue_block", "pink_block")
SLOTS: Final = ("slider_right", "slider_left")
_SIDES: Final = ("right", "left")

# What each variable may be at the start of a chain. The order is that of upstream's product
# (the last varies fastest) and of the text that seeds the block poses.
INITIAL_VALUES: Final[Mapping[str, tuple[Value, ...]]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    **{block: ("table", *SLOTS) for block in BLOCKS},
    "grasped": (0,),
}


class SymbolicState(Mapping[str, Value]):
    """An immutable, hashable symbolic state: a value for each name in `INITIAL_VALUES`."""

    __slots__ = ("_values",)

    def __init__(self, values: tuple[Value, ...]) -> None:
        self._values = values

    @classmethod
    def initial(cls, state: Mapping[str, object]) -> SymbolicState:
        """Returns `state` in the benchmark's key order and in plain Python values.

        Both matter: the text of the state seeds the block poses, and `np.int64(1)` has
        another text than `1`.

        Raises:
            UsageError: if a name is missing or unknown, or no chain can start like that.
        """
        if wrong := set(INITIAL_VALUES) ^ set(state):
            raise UsageError(
                f"initial state: expected exactly the keys {', '.join(INITIAL_VALUES)}; "
                f"missing or unknown: {', '.join(sorted(map(str, wrong)))}"
            )
        values = []
        for name, allowed in INITIAL_VALUES.items():
            if state[name] not in allowed:
                raise UsageError(
                    f"initial state: expected {name} to be one of "
                    f"{', '.join(map(repr, allowed))}, found {state[name]!r}"
                )
            values.append(allowed[allowed.index(state[name])])
        if not _blocks_fit(places := values[4:7]):
            raise UsageError(
                "initial state: expected one or two blocks on the table and at most one in each "
                f"slider slot, found {', '.join(map(str, places))}"
            )
        return cls(tuple(values))

    def replace(self, changes: Mapping[str, Value]) -> SymbolicState:
        """Returns a copy with some values changed."""
        return SymbolicState(tuple(changes.get(k, v) for k, v in self.items()))

    @property
    def text(self) -> str:
        """The state as upstream's `str(state.values())` prints it; seeds the block poses."""
        return f"dict_values({list(self._values)!r})"

    def __getitem__(self, name: str) -> Value:
        return self._values[_INDEX[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(INITIAL_VALUES)

    def __len__(self) -> int:
        return len(INITIAL_VALUES)

    def __hash__(self) -> int:
        return hash(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SymbolicState):
            return self._values == other._values
        return super().__eq__(other)

    def __repr__(self) -> str:
        return f"SymbolicState({dict(self)!r})"


_INDEX: Final = {name: i for i, name in enumerate(INITIAL_VALUES)}


def _blocks_fit(places: Collection[object]) -> bool:
    """Says whether blocks can start at these places."""
    on = list(places)
    return on.count("table") in (1, 2) and all(on.count(slot) < 2 for slot in SLOTS)


@cache
def initial_states() -> tuple[SymbolicState, ...]:
    """Returns the 192 states in which a chain may start, in the generator's order."""
    values = product(*INITIAL_VALUES.values())
    return tuple(SymbolicState(v) for v in values if _blocks_fit(v[4:7]))


@dataclass(frozen=True, kw_only=True)
class TaskRule:
    """One way of doing a task.

    Attributes:
        when: the values it needs; a tuple means any of them.
        then: the values it leaves behind.
    """

    when: Mapping[str, Value | tuple[str, ...]]
    then: Mapping[str, Value]

    def applies(self, state: SymbolicState) -> bool:
        """Says whether the task can be done in this way from `state`."""
        return all(
            state[name] in want if isinstance(want, tuple) else state[name] == want
            for name, want in self.when.items()
        )


def _by_hand(when: Mapping[str, Value | tuple[str, ...]], then: Mapping[str, Value]) -> TaskRule:
    """Something that is done with an empty gripper."""
    return TaskRule(when={**when, "grasped": 0}, then=then)


def _lift(block: str, when: Mapping[str, Value]) -> TaskRule:
    """The gripper takes a block."""
    return _by_hand(when, {block: "grasped", "grasped": 1})


def _put(block: str, when: Mapping[str, Value], then: Mapping[str, Value]) -> TaskRule:
    """The gripper lets go of the block that it holds."""
    return TaskRule(when={block: "grasped", **when, "grasped": 1}, then={**then, "grasped": 0})


def _block_rules(block: str) -> dict[str, tuple[TaskRule, ...]]:
    """The tasks whose name has this block in it."""
    stay = (_by_hand({block: "table"}, {}),)
    moves = {f"{verb}_{block}_{side}": stay for verb in ("rotate", "push") for side in _SIDES}
    # A slot can be reached into where the sliding door is not.
    from_slider = tuple(
        _lift(block, {block: f"slider_{side}", "slider": door})
        for side, door in (("left", "right"), ("right", "left"))
    )
    return {
        **moves,
        f"lift_{block}_table": (_lift(block, {block: "table"}),),
        f"lift_{block}_slider": from_slider,
        f"lift_{block}_drawer": (_lift(block, {block: "drawer", "drawer": "open"}),),
    }


def _any_block_rules() -> dict[str, tuple[TaskRule, ...]]:
    """The tasks that leave open which block they mean."""
    pairs = [(a, b) for a in BLOCKS for b in BLOCKS if a != b]
    push = []
    for block in BLOCKS:
        others = {other: SLOTS for other in BLOCKS if other != block}
        push.append(_by_hand({block: "table", **others, "drawer": "open"}, {block: "drawer"}))
    return {
        "place_in_slider": tuple(
            _put(b, {"slider": side}, {b: f"slider_{side}"}) for b in BLOCKS for side in _SIDES
        ),
        "place_in_drawer": tuple(_put(b, {"drawer": "open"}, {b: "drawer"}) for b in BLOCKS),
        "stack_block": tuple(
            _put(a, {b: "table"}, {a: "stacked_top", b: "stacked_bottom"}) for a, b in pairs
        ),
        "unstack_block": tuple(
            _by_hand({a: "stacked_top", b: "stacked_bottom"}, {a: "table", b: "table"})
            for a, b in pairs
        ),
        "push_into_drawer": tuple(push),
    }


def _two_way(variable: str, tasks: Mapping[str, tuple[Value, Value]]) -> dict[str, tuple[TaskRule]]:
    """Tasks that change one variable from one value to another."""
    return {t: (_by_hand({variable: a}, {variable: b}),) for t, (a, b) in tasks.items()}


def _all_rules() -> dict[str, tuple[TaskRule, ...]]:
    """The ways of doing each task, without an order of the tasks."""
    switch = {
        name: _two_way(name, {f"turn_on_{name}": (0, 1), f"turn_off_{name}": (1, 0)})
        for name in ("lightbulb", "led")
    }
    slider = {"move_slider_left": ("right", "left"), "move_slider_right": ("left", "right")}
    drawer = {"open_drawer": ("closed", "open"), "close_drawer": ("open", "closed")}
    return {
        **{task: rules for block in BLOCKS for task, rules in _block_rules(block).items()},
        **_any_block_rules(),
        **_two_way("slider", slider),
        **_two_way("drawer", drawer),
        **switch["lightbulb"],
        **switch["led"],
    }


# Tasks that are too much alike to be in one chain share a category. The generator draws
# positions in this order of names, so the order is part of the protocol.
TASK_CATEGORIES: Final[Mapping[str, int]] = {
    **{f"{v}_{b}_{s}": 1 for v in ("rotate", "push") for b in BLOCKS for s in _SIDES},
    "move_slider_left": 2,
    "move_slider_right": 2,
    "open_drawer": 3,
    "close_drawer": 3,
    **{f"lift_{b}_{p}": 4 + i for b in BLOCKS for i, p in enumerate(("table", "slider", "drawer"))},
    "place_in_slider": 7,
    "place_in_drawer": 7,
    "stack_block": 10,
    "unstack_block": 11,
    **{f"turn_{to}_{light}": 8 for light in ("lightbulb", "led") for to in ("on", "off")},
    "push_into_drawer": 9,
}
TASK_NAMES: Final = tuple(TASK_CATEGORIES)
RULES: Final[Mapping[str, tuple[TaskRule, ...]]] = {name: _all_rules()[name] for name in TASK_NAMES}


def outcomes(state: SymbolicState, task: str) -> list[SymbolicState]:
    """Returns the states that doing `task` in `state` can lead to, one for each way."""
    return [state.replace(rule.then) for rule in RULES[task] if rule.applies(state)]


def is_valid(state: SymbolicState, tasks: Collection[str]) -> bool:
    """Says whether the benchmark may ask for these tasks in this order.

    Each task must be possible in exactly one way, and no two may share a category.
    """
    for task in tasks:
        after = outcomes(state, task)
        if len(after) != 1:
            return False
        state = after[0]
    return len({TASK_CATEGORIES[task] for task in tasks}) == len(tasks)
