"""The 34 tasks as short compositions of skills."""

from __future__ import annotations

from collections.abc import Callable

from calvin_eval.wrappers.builtin.expert import (
    skills_grasp,
    skills_place,
    skills_stack,
    skills_table,
    skills_unstack,
)
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion

Program = Callable[[Arm], Motion]


def program(task: str) -> Program:
    """The program of a task."""
    words = task.split("_")
    if task in FIXED:
        return FIXED[task]
    block = f"block_{words[1]}"
    if words[0] == "rotate":
        return lambda arm: _rotate(arm, block, 1 if words[-1] == "left" else -1)
    if words[0] == "push":
        return lambda arm: _free(
            arm, skills_place.push(arm, block, -1 if words[-1] == "left" else 1)
        )
    if words[0] == "lift":
        return lambda arm: _lift(arm, block)
    raise KeyError(task)


def _free(arm: Arm, skill: Motion) -> Motion:
    yield from skills_place.begin(arm)
    yield from skill


def _rotate(arm: Arm, block: str, side: int) -> Motion:
    held = arm.view.held
    if held is None or held.name != block:
        yield from skills_place.begin(arm)
    else:
        yield from arm.sync()
    yield from skills_place.rotate(arm, block, side)


def _lift(arm: Arm, block: str) -> Motion:
    yield from skills_place.begin(arm)
    yield from skills_grasp.grasp(arm, block)
    yield from skills_grasp.lift(arm)
    yield from arm.wait(4)


def _with_held(arm: Arm, skill: Callable[[Arm, str], Motion]) -> Motion:
    yield from arm.sync(2)
    held = arm.view.held
    if held is None:
        held = min(
            arm.view.blocks.values(), key=lambda b: float(((b.position - arm.view.tcp) ** 2).sum())
        )
        yield from skills_grasp.grasp(arm, held.name)
    yield from skill(arm, held.name)


def _push_into_drawer(arm: Arm) -> Motion:
    yield from skills_place.begin(arm)
    view = arm.view
    base = view.surface["base_link"]
    ready = [b for b in view.blocks.values() if b.surfaces == {base}]
    block = min(ready or list(view.blocks.values()), key=lambda b: (-b.position[0], b.name))
    yield from skills_grasp.grasp(arm, block.name)
    yield from skills_grasp.lift(arm)
    yield from skills_place.place_in_drawer(arm, block.name)


FIXED: dict[str, Program] = {
    "open_drawer": lambda arm: _free(arm, skills_table.open_drawer(arm)),
    "close_drawer": lambda arm: _free(arm, skills_table.close_drawer(arm)),
    "move_slider_left": lambda arm: _free(arm, skills_table.slide(arm, arm.view.table.door_range)),
    "move_slider_right": lambda arm: _free(arm, skills_table.slide(arm, 0.0)),
    "turn_on_led": lambda arm: _free(arm, skills_table.press(arm)),
    "turn_off_led": lambda arm: _free(arm, skills_table.press(arm)),
    "turn_on_lightbulb": lambda arm: _free(arm, skills_table.flip(arm, True)),
    "turn_off_lightbulb": lambda arm: _free(arm, skills_table.flip(arm, False)),
    "place_in_slider": lambda arm: _with_held(arm, skills_place.place_in_cabinet),
    "place_in_drawer": lambda arm: _with_held(arm, skills_place.place_in_drawer),
    "stack_block": lambda arm: _with_held(arm, skills_stack.stack),
    "unstack_block": lambda arm: _free(arm, skills_unstack.unstack(arm)),
    "push_into_drawer": _push_into_drawer,
}
