"""How far a task has come between two moments: partial credit, from the oracle's own thresholds.

Upstream knows success and failure only; this number is ours and is not part of any score. Every
task has a signed measure: 0 is the state that the subtask began in, 1 the oracle's threshold, and
below 0 is the wrong way. Formulas: docs/diagnose.md#progress; arguments and thresholds come from
the pack's task file, what is looked at from `judging`, as for the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import AssetError, UnknownNameError
from calvin_eval.sim.judging import (
    MAX_MOVE_WHILE_ROTATING,
    MAX_TILT_WHILE_ROTATING,
    Info,
    block_of,
    bodies,
    displacement,
    on_blocks_only,
    robot_of,
    slow,
    surface_of,
    surfaces,
    turned,
)
from calvin_eval.sim.table import Button, Switch
from calvin_eval.sim.world import Needs, World

MOST_UNACHIEVED: Final = 0.95
"""What progress is at most while the oracle does not hold the task achieved."""

_BLOCK_HEIGHT: Final = 0.04  # metres, of every block that lies level
_NEAR: Final = 1e-3  # metres: a place that is nearer than this at the start is already reached

Measure: TypeAlias = Callable[[Info], float]


@dataclass(frozen=True, kw_only=True)
class Meter:
    """Measures one subtask.

    Attributes:
        kind: the oracle's name of the task's rule, such as `lift_object`.
        objects: blocks, or the one joint, that it is about.
        direction: sign of the change that is asked for, of a block or a joint that can go the wrong
            way, where the measure is negative; 0 of a task that has no wrong way.
        obstacle: why the oracle can never hold it achieved, whatever happens next; None if it may.
        measure: of the world as it is now, which the given info must be about.
    """

    kind: str
    objects: tuple[str, ...]
    direction: int
    obstacle: str | None
    measure: Measure


def progress(measure: float, *, achieved: bool) -> float:
    """A measure as partial credit, 0..1; 1 means achieved and nothing else does."""
    return 1.0 if achieved else float(np.clip(measure, 0.0, MOST_UNACHIEVED))


def looked_at(world: World) -> Needs:
    """What the info that a meter measures must hold; that of the start must be whole."""
    return Needs(poses=frozenset(world.blocks), doors=frozenset(d.name for d in world.doors))


def make_meter(task: str, world: World, start: Info) -> Meter:
    """The meter of a subtask that begins now.

    Args:
        task: its name.
        world: in the state that it begins in; the meter looks at it later.
        start: the whole info of that state.

    Raises:
        UnknownNameError: a name that is not a task.
        AssetError: the task file has a rule that the oracle does not have.
    """
    tasks = world.pack.tasks
    if task not in tasks:
        raise UnknownNameError("task", task, tasks)
    kind, *arguments = tasks[task]
    makers: dict[str, Callable[..., Meter]] = {
        "rotate_object": _rotate,
        "push_object": _push,
        "lift_object": _lift,
        "place_object": _place,
        "push_object_into": _push_into,
        "move_door_rel": _move_door,
        "toggle_light": _toggle_light,
        "stack_objects": _stack,
        "unstack_objects": _unstack,
    }
    if kind not in makers:
        raise AssetError(f"task {task!r} asks for the judge {kind!r}; expected one of {[*makers]}")
    return makers[kind](world, start, *arguments)


def _rotate(_world: World, start: Info, block: str, degrees: float) -> Meter:
    def measure(now: Info) -> float:
        moved = float(np.linalg.norm(displacement(start, now, block)))
        x, y, z = turned(start, now, block)
        tilted = max(abs(x), abs(y)) >= MAX_TILT_WHILE_ROTATING
        return 0.0 if moved > MAX_MOVE_WHILE_ROTATING or tilted else z / degrees

    return Meter(kind="rotate_object", objects=(block,), direction=_sign(degrees), obstacle=None,
                 measure=measure)  # fmt: skip


def _push(_world: World, start: Info, block: str, x: float, y: float) -> Meter:
    axis, distance = (0, x) if x else (1, y)
    touched = bodies(block_of(start, block)) - {robot_of(start)}
    return Meter(
        kind="push_object", objects=(block,), direction=_sign(distance),
        obstacle=None if touched else f"{block} touched nothing but the robot",
        measure=lambda now: float(displacement(start, now, block)[axis]) / distance,
    )  # fmt: skip


def _lift(_world: World, start: Info, block: str, height: float, body: str, link: str) -> Meter:
    lies = surface_of(start, body, link) in surfaces(block_of(start, block))
    return Meter(
        kind="lift_object", objects=(block,), direction=0,
        obstacle=None if lies else f"{block} did not touch the {_word(link)}",
        measure=lambda now: max(0.0, float(displacement(start, now, block)[2]) / height),
    )  # fmt: skip


def held_alone(start: Info) -> str | None:
    """The block that the robot touches, if it touches nothing else and nothing else does."""
    held, robot = bodies(start["robot_info"]), robot_of(start)
    objects = start["scene_info"]["movable_objects"]
    names: list[str] = [n for n, thing in objects.items() if thing["uid"] in held]
    if len(held) != 1 or len(names) != 1 or bodies(block_of(start, names[0])) != {robot}:
        return None
    return names[0]


def _place(world: World, start: Info, _body: str, link: str) -> Meter:
    name = held_alone(start)
    touched = [n for n, b in start["scene_info"]["movable_objects"].items()
               if robot_of(start) in bodies(b)]  # fmt: skip
    objects = (name,) if name is not None else tuple(touched or world.blocks)
    return Meter(
        kind="place_object", objects=objects, direction=0,
        obstacle=None if name is not None else "no block was held free of all else",
        measure=_nearest(world, start, objects, lambda block, now: _gap(block, now, world, link)),
    )  # fmt: skip


def _push_into(
    world: World, start: Info, block: str | Sequence[str], source: str, source_link: str,
    _target: str, target_link: str,
) -> Meter:  # fmt: skip
    names = (block,) if isinstance(block, str) else tuple(block)
    wanted = {surface_of(start, source, source_link)}
    ready = tuple(n for n in names if surfaces(block_of(start, n)) == wanted)
    return Meter(
        kind="push_object_into", objects=ready or names, direction=0,
        obstacle=None if ready else
        f"no block touched the {_word(source_link)} and nothing else",
        measure=_nearest(
            world, start, ready or names, lambda block, now: _gap(block, now, world, target_link)
        ),
    )  # fmt: skip


def _move_door(_world: World, start: Info, joint: str, distance: float) -> Meter:
    def position(info: Info) -> float:
        return float(info["scene_info"]["doors"][joint]["current_state"])

    before = position(start)
    return Meter(
        kind="move_door_rel", objects=(joint,), direction=_sign(distance), obstacle=None,
        measure=lambda now: (position(now) - before) / distance,
    )  # fmt: skip


def _toggle_light(world: World, start: Info, name: str, before: int, after: int) -> Meter:
    state = start["scene_info"]["lights"][name]["logical_state"]
    words = {0: "off", 1: "on"}
    obstacle = None if state == before else f"the {name} was {words[state]}"
    for button in world.buttons:
        if button.light.name == name:
            return Meter(
                kind="toggle_light", objects=(button.joint.name,), direction=0,
                obstacle=obstacle, measure=_pressed(button, after),
            )  # fmt: skip
    switch = next(s for s in world.switches if s.light.name == name)
    return Meter(
        kind="toggle_light", objects=(switch.joint.name,), direction=1 if after else -1,
        obstacle=obstacle, measure=_flipped(switch, after),
    )  # fmt: skip


def _pressed(button: Button, after: int) -> Measure:
    """Of the presses that are needed, how many are done, and how deep the button is."""
    logical = button.on
    needed = 1 if logical != bool(after) else 2  # under `pinned`, a lit LED wants two presses

    def measure(_now: Info) -> float:
        done = int(needed == 2 and button.on != logical)
        depth = float(np.clip(button.joint.position / button.threshold, 0.0, 1.0))
        return (done + MOST_UNACHIEVED * depth) / needed

    return measure


def _flipped(switch: Switch, after: int) -> Measure:
    """Of the lever's way to the middle, how much is done."""
    begin = switch.joint.position
    way = switch.threshold - begin
    if way * (1 if after else -1) <= 0:  # it stands beyond the middle: there and back
        return lambda _now: 0.0
    return lambda _now: (switch.joint.position - begin) / way


def _stack(world: World, start: Info) -> Meter:
    objects = start["scene_info"]["movable_objects"]
    uids = {thing["uid"] for thing in objects.values()}
    free = tuple(n for n, thing in objects.items() if not uids & bodies(thing))
    held = tuple(n for n in free if robot_of(start) in bodies(objects[n]))
    return Meter(
        kind="stack_objects", objects=held or free or tuple(objects), direction=0,
        obstacle=None if free else "every block touched another one",
        measure=_nearest(world, start, held or free, lambda name, _now: _above(name, world)),
    )  # fmt: skip


def _unstack(world: World, start: Info) -> Meter:
    objects = start["scene_info"]["movable_objects"]
    uids = {thing["uid"]: name for name, thing in objects.items()}
    lying = {n: thing for n, thing in objects.items() if on_blocks_only(bodies(thing), set(uids))}
    upper = {n: bodies(thing) for n, thing in lying.items() if slow(thing)}

    def moved(name: str, now: Info) -> float:
        apart = (displacement(start, now, name) - displacement(start, now, uids[base])
                 for base in sorted(upper[name]))  # fmt: skip
        return min(float(np.linalg.norm(way)) for way in apart) / _BLOCK_HEIGHT

    return Meter(
        kind="unstack_objects", objects=tuple(upper) or tuple(objects), direction=0,
        obstacle=None if upper else "no block lay on blocks only, and at rest,",
        measure=lambda now: max((moved(name, now) for name in upper), default=0.0),
    )  # fmt: skip


def _sign(number: float) -> int:
    return 1 if number > 0 else -1


def _nearest(
    world: World, start: Info, names: Iterable[str], gap: Callable[[str, Info], float]
) -> Measure:
    """The share of its way to a place that the block which came nearest has done."""
    before = {name: max(gap(name, start), _NEAR) for name in names}
    return lambda now: max((1 - gap(n, now) / before[n] for n in before), default=0.0)


def _gap(block: str, now: Info, world: World, link: str) -> float:
    """Metres between a block's centre and the box around a link of the table; 0 inside."""
    centre = np.array(block_of(now, block)["current_pos"])
    low, high = world.box(link)
    return float(np.linalg.norm(_beyond(centre, low, high)))


def _beyond(
    point: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.maximum(low - point, 0) + np.maximum(point - high, 0)


def _above(name: str, world: World) -> float:
    """Metres between a block's underside and the nearest top of another block, middle to middle."""
    low, high = world.box(name)
    gaps = []
    for other in world.blocks:
        if other != name:
            base_low, base_high = world.box(other)
            level = ((low + high) / 2 - (base_low + base_high) / 2)[:2]
            gaps.append(float(np.linalg.norm([*level, low[2] - base_high[2]])))
    return min(gaps, default=0.0)


def _word(link: str) -> str:
    """What people call a link of the table."""
    words: dict[str, Any] = {
        "base_link": "table's top", "plank_link": "cabinet's floor", "drawer_link": "drawer",
    }  # fmt: skip
    return str(words.get(link, link))
