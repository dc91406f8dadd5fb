"""The task oracle: which of the 34 tasks were achieved between two moments.

Rules: docs/protocol.md#tasks; names, arguments and thresholds come from the pack's task file. The
verdicts equal upstream's, odd ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from calvin_eval.errors import AssetError, UnknownNameError
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.world import Needs

Info: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[Info, Info], bool]

_BODY, _LINK = 2, 4  # in a Bullet contact point: the other body, and its link
_MAX_MOVE_WHILE_ROTATING = 0.1  # metres
_MAX_TILT_WHILE_ROTATING = 30  # degrees
_HALF_TURN = 180  # degrees
_MAX_STACK_SPEED = 1  # m/s and rad/s


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


def _block(info: Info, name: str) -> Mapping[str, Any]:
    block: Mapping[str, Any] = info["scene_info"]["movable_objects"][name]
    return block


def _bodies(thing: Mapping[str, Any]) -> set[int]:
    return {contact[_BODY] for contact in thing["contacts"]}


def _surfaces(thing: Mapping[str, Any]) -> set[tuple[int, int]]:
    return {(contact[_BODY], contact[_LINK]) for contact in thing["contacts"]}


def _surface(info: Info, body: str, link: str) -> tuple[int, int]:
    fixed = info["scene_info"]["fixed_objects"][body]
    return fixed["uid"], fixed["links"][link]


def _robot(info: Info) -> int:
    uid: int = info["robot_info"]["uid"]
    return uid


def _displacement(start: Info, end: Info, name: str) -> Any:
    return np.array(_block(end, name)["current_pos"]) - np.array(_block(start, name)["current_pos"])


def _touching(*names: str) -> Needs:
    return Needs(poses=frozenset(names), contacts=frozenset(names))


def _rotate(block: str, degrees: float) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        if np.linalg.norm(_displacement(start, end, block)) > _MAX_MOVE_WHILE_ROTATING:
            return False
        if not _bodies(_block(end, block)) - {_robot(start)}:
            return False
        from scipy.spatial.transform import Rotation

        before = Rotation.from_quat(_block(start, block)["current_orn"])
        after = Rotation.from_quat(_block(end, block)["current_orn"])
        x, y, z = (after * before.inv()).as_euler("xyz", degrees=True)
        if abs(x) >= _MAX_TILT_WHILE_ROTATING or abs(y) >= _MAX_TILT_WHILE_ROTATING:
            return False
        turned = degrees < z < _HALF_TURN if degrees > 0 else degrees > z > -_HALF_TURN
        return bool(turned)

    return _Task(_touching(block), judge)


def _push(block: str, x: float, y: float) -> _Task:
    axis, distance = (0, x) if x else (1, y)

    def judge(start: Info, end: Info) -> bool:
        robot = _robot(start)
        before = {s for s in _surfaces(_block(start, block)) if s[0] != robot}
        after = {s for s in _surfaces(_block(end, block)) if s[0] != robot}
        if not before or not after or not before <= after:
            return False
        moved = _displacement(start, end, block)[axis]
        return bool(moved > distance if distance > 0 else moved < distance)

    return _Task(_touching(block), judge)


def _lift(block: str, height: float, body: str, link: str) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        if not _displacement(start, end, block)[2] > height:
            return False
        if _bodies(_block(end, block)) != {_robot(start)}:
            return False
        return _surface(start, body, link) in _surfaces(_block(start, block))

    return _Task(_touching(block), judge)


def _place(blocks: frozenset[str], body: str, link: str) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        held = _bodies(start["robot_info"])
        if len(held) != 1 or held & _bodies(end["robot_info"]):
            return False
        objects = start["scene_info"]["movable_objects"]
        names = [name for name, thing in objects.items() if thing["uid"] in held]
        if len(names) != 1:
            return False
        if _bodies(_block(start, names[0])) != {_robot(start)}:
            return False
        return _surface(end, body, link) in _surfaces(_block(end, names[0]))

    return _Task(Needs(robot_contacts=True, contacts=blocks), judge)


def _push_into(
    block: str | Sequence[str], source: str, source_link: str, target: str, target_link: str
) -> _Task:
    names = (block,) if isinstance(block, str) else tuple(block)

    def judge(start: Info, end: Info) -> bool:
        return any(_pushed_into(name, start, end) for name in names)

    def _pushed_into(name: str, start: Info, end: Info) -> bool:
        before, after = _surfaces(_block(start, name)), _surfaces(_block(end, name))
        # Upstream compares the robot's body id with (body, link) pairs, which is never true: a
        # robot that still touches the block at the end does not spoil the task.
        return (
            before == {_surface(start, source, source_link)}
            and _surface(end, target, target_link) in after
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


def _slow(block: Mapping[str, Any]) -> bool:
    speeds = np.abs((*block["current_lin_vel"], *block["current_ang_vel"]))
    return bool(np.all(speeds < _MAX_STACK_SPEED))


def _on_blocks_only(touched: set[int], blocks: set[int]) -> bool:
    return bool(touched) and touched <= blocks


def _stack(blocks: frozenset[str]) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        uids = {block["uid"] for block in start["scene_info"]["movable_objects"].values()}
        return any(
            not uids & _bodies(_block(start, name))
            and _on_blocks_only(_bodies(_block(end, name)), uids)
            and _slow(_block(end, name))
            for name in start["scene_info"]["movable_objects"]
        )

    return _Task(Needs(contacts=blocks, velocities=blocks), judge)


def _unstack(blocks: frozenset[str]) -> _Task:
    def judge(start: Info, end: Info) -> bool:
        uids = {block["uid"] for block in start["scene_info"]["movable_objects"].values()}
        return any(
            _on_blocks_only(_bodies(_block(start, name)), uids)
            and not uids & _bodies(_block(end, name))
            and _slow(_block(start, name))
            for name in start["scene_info"]["movable_objects"]
        )

    return _Task(Needs(contacts=blocks, velocities=blocks), judge)
