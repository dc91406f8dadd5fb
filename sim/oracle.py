"""The task oracle: which of the 34 tasks were achieved between two moments.

Rules: docs/protocol.md#tasks; names, arguments and thresholds come from the pack's task file. The
verdicts equal upstream's, odd ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from calvin_eval.errors import AssetError, UnknownNameError
from calvin_eval.sim.judging import (
    HALF_TURN,
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
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.world import Needs

Judge: TypeAlias = Callable[[Info, Info], bool]


@dataclass(frozen=True)
class _Task:
    needs: Needs
    judge: Judge


class TaskOracle:
    """Judges tasks by comparing the info before and after.

    Args:
        assets: what `make_env` takes, or a loaded pack: its task file has the thresholds.
    """

    def __init__(self, assets: str | AssetPack = "builtin") -> None:
        pack = assets if isinstance(assets, AssetPack) else load_pack(assets)
        blocks = frozenset(name for scene in pack.scenes.values() for name, _ in scene.blocks)
        self._tasks = {
            name: _make_task(name, definition, blocks) for name, definition in pack.tasks.items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """All task names, in the order of the task file."""
        return tuple(self._tasks)

    def needs(self, tasks: Iterable[str]) -> Needs:
        """What both infos must hold for these tasks to be judged."""
        needs = Needs()
        for task in tasks:
            needs |= self._task(task).needs
        return needs

    def achieved(
        self, start_info: Info, info: Info, tasks: Iterable[str] | None = None
    ) -> set[str]:
        """The tasks achieved between the two infos.

        Args:
            start_info: taken right before the subtask's first action.
            info: taken now.
            tasks: which to judge; all by default.

        Raises:
            UnknownNameError: a name that is not a task.
        """
        names = self.tasks if tasks is None else tasks
        return {name for name in names if self._task(name).judge(start_info, info)}

    def _task(self, name: str) -> _Task:
        if name not in self._tasks:
            raise UnknownNameError("task", name, self._tasks)
        return self._tasks[name]


def _make_task(name: str, definition: Sequence[Any], blocks: frozenset[str]) -> _Task:
    kind, *arguments = definition
    makers: dict[str, Callable[..., _Task]] = {
        "rotate_object": _rotate,
        "push_object": _push,
        "lift_object": _lift,
        "place_object": lambda *args: _place(blocks, *args),
        "push_object_into": _push_into,
        "move_door_rel": _move_door,
        "toggle_light": _toggle_light,
        "stack_objects": lambda: _stack(blocks),
        "unstack_objects": lambda: _unstack(blocks),
    }
    if kind not in makers:
        raise AssetError(f"task {name!r} asks for the judge {kind!r}; expected one of {[*makers]}")
    try:
        return makers[kind](*arguments)
    except TypeError as error:
        raise AssetError(f"task {name!r} has unfit arguments {arguments}: {error}") from error


def _touching(*names: str) -> Needs:
    return Needs(poses=frozenset(names), contacts=frozenset(names))


def _rotate(block: str, degrees: float) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        if np.linalg.norm(displacement(start, end, block)) > MAX_MOVE_WHILE_ROTATING:
            return False
        if not bodies(block_of(end, block)) - {robot_of(start)}:
            return False
        x, y, z = turned(start, end, block)
        if abs(x) >= MAX_TILT_WHILE_ROTATING or abs(y) >= MAX_TILT_WHILE_ROTATING:
            return False
        enough = degrees < z < HALF_TURN if degrees > 0 else degrees > z > -HALF_TURN
        return bool(enough)

    return _Task(_touching(block), judge)


def _push(block: str, x: float, y: float) -> _Task:
    axis, distance = (0, x) if x else (1, y)

    def judge(start: Info, end: Info) -> bool:
        robot = robot_of(start)
        before = {s for s in surfaces(block_of(start, block)) if s[0] != robot}
        after = {s for s in surfaces(block_of(end, block)) if s[0] != robot}
        if not before or not after or not before <= after:
            return False
        moved = displacement(start, end, block)[axis]
        return bool(moved > distance if distance > 0 else moved < distance)

    return _Task(_touching(block), judge)


def _lift(block: str, height: float, body: str, link: str) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        if not displacement(start, end, block)[2] > height:
            return False
        if bodies(block_of(end, block)) != {robot_of(start)}:
            return False
        return surface_of(start, body, link) in surfaces(block_of(start, block))

    return _Task(_touching(block), judge)


def _place(blocks: frozenset[str], body: str, link: str) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        held = bodies(start["robot_info"])
        if len(held) != 1 or held & bodies(end["robot_info"]):
            return False
        objects = start["scene_info"]["movable_objects"]
        names = [name for name, thing in objects.items() if thing["uid"] in held]
        if len(names) != 1:
            return False
        if bodies(block_of(start, names[0])) != {robot_of(start)}:
            return False
        return surface_of(end, body, link) in surfaces(block_of(end, names[0]))

    return _Task(Needs(robot_contacts=True, contacts=blocks), judge)


def _push_into(
    block: str | Sequence[str], source: str, source_link: str, target: str, target_link: str
) -> _Task:
    names = (block,) if isinstance(block, str) else tuple(block)

    def judge(start: Info, end: Info) -> bool:
        return any(_pushed_into(name, start, end) for name in names)

    def _pushed_into(name: str, start: Info, end: Info) -> bool:
        before, after = surfaces(block_of(start, name)), surfaces(block_of(end, name))
        # Upstream compares the robot's body id with (body, link) pairs, which is never true: a
        # robot that still touches the block at the end does not spoil the task.
        return (
            before == {surface_of(start, source, source_link)}
            and surface_of(end, target, target_link) in after
        )

    return _Task(Needs(contacts=frozenset(names)), judge)


def _move_door(joint: str, distance: float) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        before = start["scene_info"]["doors"][joint]["current_state"]
        moved = end["scene_info"]["doors"][joint]["current_state"] - before
        return bool(0 < distance < moved or 0 > distance > moved)

    return _Task(Needs(doors=frozenset((joint,))), judge)


def _toggle_light(name: str, before: int, after: int) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        first, last = (info["scene_info"]["lights"][name]["logical_state"] for info in (start, end))
        return bool(first == before and last == after)

    return _Task(Needs(), judge)


def _stack(blocks: frozenset[str]) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        uids = {block["uid"] for block in start["scene_info"]["movable_objects"].values()}
        return any(
            not uids & bodies(block_of(start, name))
            and on_blocks_only(bodies(block_of(end, name)), uids)
            and slow(block_of(end, name))
            for name in start["scene_info"]["movable_objects"]
        )

    return _Task(Needs(contacts=blocks, velocities=blocks), judge)


def _unstack(blocks: frozenset[str]) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        uids = {block["uid"] for block in start["scene_info"]["movable_objects"].values()}
        return any(
            on_blocks_only(bodies(block_of(start, name)), uids)
            and not uids & bodies(block_of(end, name))
            and slow(block_of(start, name))
            for name in start["scene_info"]["movable_objects"]
        )

    return _Task(Needs(contacts=blocks, velocities=blocks), judge)
