"""The 34 tasks as short compositions of skills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from calvin_eval.errors import UnknownNameError
from calvin_eval.sim.symbolic import TASK_NAMES
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_grasp import grasp, lift
from calvin_eval.wrappers.builtin.expert.skills_move import push, rotate
from calvin_eval.wrappers.builtin.expert.skills_place import (
    begin,
    place_in_cabinet,
    place_in_drawer,
)
from calvin_eval.wrappers.builtin.expert.skills_stack import stack
from calvin_eval.wrappers.builtin.expert.skills_table import (
    close_drawer,
    flip,
    open_drawer,
    press,
    slide,
)
from calvin_eval.wrappers.builtin.expert.skills_unstack import unstack

Program = Callable[[Arm], Motion]


def program(task: str) -> Program:
    """The program of a task.

    Raises:
        UnknownNameError: the task is none of the benchmark's 34.
    """
    if task not in TASK_NAMES:
        raise UnknownNameError("task", task, TASK_NAMES)
    if task in _FIXED:
        return _FIXED[task]
    verb, colour, *_, last = task.split("_")
    block = f"block_{colour}"
    if verb == "rotate":
        return partial(_rotate, block=block, side=1 if last == "left" else -1)
    if verb == "push":
        return partial(_push, block=block, side=-1 if last == "left" else 1)
    return partial(_lift, block=block)


def _free(skill: Program) -> Program:
    """A skill that begins with an empty hand."""

    def run(arm: Arm) -> Motion:
        yield from begin(arm)
        yield from skill(arm)

    return run


def _holding(skill: Callable[[Arm, str], Motion]) -> Program:
    """A skill on the block in the hand; one that was lost is picked up again."""

    def run(arm: Arm) -> Motion:
        yield from arm.sync(2)
        view = arm.view
        held = view.held
        if held is None:
            near = {n: ((b.position - view.tcp) ** 2).sum() for n, b in view.blocks.items()}
            held = view.blocks[min(near, key=near.__getitem__)]
            yield from grasp(arm, held.name)
        yield from skill(arm, held.name)

    return run


def _rotate(arm: Arm, block: str, side: int) -> Motion:
    held = arm.view.held
    if held is not None and held.name == block:
        yield from arm.sync()
    else:
        yield from begin(arm)
    yield from rotate(arm, block, side)


def _push(arm: Arm, block: str, side: int) -> Motion:
    yield from begin(arm)
    yield from push(arm, block, side)


def _lift(arm: Arm, block: str) -> Motion:
    yield from begin(arm)
    yield from grasp(arm, block)
    yield from lift(arm)
    yield from arm.wait(4)


def _push_into_drawer(arm: Arm) -> Motion:
    yield from begin(arm)
    view = arm.view
    table = {view.surface["base_link"]}
    ready = [block for block in view.blocks.values() if block.surfaces == table]
    block = min(ready or view.blocks.values(), key=lambda b: (-b.position[0], b.name))
    yield from grasp(arm, block.name)
    yield from lift(arm)
    yield from place_in_drawer(arm, block.name)


_FIXED: Mapping[str, Program] = {
    "open_drawer": _free(open_drawer),
    "close_drawer": _free(close_drawer),
    "move_slider_left": _free(lambda arm: slide(arm, arm.view.table.door_range)),
    "move_slider_right": _free(lambda arm: slide(arm, 0.0)),
    "turn_on_led": _free(press),
    "turn_off_led": _free(press),
    "turn_on_lightbulb": _free(lambda arm: flip(arm, True)),
    "turn_off_lightbulb": _free(lambda arm: flip(arm, False)),
    "place_in_slider": _holding(place_in_cabinet),
    "place_in_drawer": _holding(place_in_drawer),
    "stack_block": _holding(stack),
    "unstack_block": _free(unstack),
    "push_into_drawer": _push_into_drawer,
}
