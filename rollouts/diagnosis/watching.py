"""What is seen of a failed subtask while it is simulated again: one row per state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.results.diagnosis import Achieved
from calvin_eval.rollouts.replay import Step
from calvin_eval.sim.actions import parse_action
from calvin_eval.sim.judging import BODY, LINK, block_of, bodies, robot_of
from calvin_eval.sim.progress import Meter, make_meter, progress
from calvin_eval.sim.world import World
from calvin_eval.wrappers.builtin.expert.geometry import TABLES, grip_point
from calvin_eval.wrappers.policy import Action

Array = NDArray[np.float64]

GRASP_STEPS: Final = 5
"""In so many states in a row a block must be in the closed hand to count as grasped."""
_GRIPPED: Final = 0.01  # metres between the fingers: closed on nothing, they are nearer
_UNTURNED: Final = 0.9999  # cosine of half a turn of 1.6 degrees
_JOINT_PREFIX, _LINK_SUFFIX = "base__", "_link"  # of the table's joints, and of what they move

TABLE: Final = "table"
"""What the table itself is called among the objects that were touched."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A failed subtask. Rows are states: the one that it began in, and one after each action.

    Attributes:
        start_info: of the state that it began in.
        meter: what it was measured by.
        positions: (T+1, 3) of the tcp, metres.
        joints: (T+1, 7) of the arm, radians.
        command: (T+1,) of the gripper, -1 or 1.
        distance: (T+1,) from the tcp to the nearest target, metres.
        measure: (T+1,) signed, see `sim.progress`.
        progress: (T+1,) 0..1.
        touched: per state, the objects that the robot touches; `table` is the table itself.
        held: per state, the block in the closed hand.
        places: by object the (T+1, 3) or (T+1, 1) position of its centre or joint, metres.
        actions: (T) as they were executed.
        commanded: (T, 3) metres by which they ask the hand to move; 0 of joint actions.
        achieved: tasks that were done, in order of time.
    """

    start_info: Mapping[str, Any]
    meter: Meter
    positions: Array
    joints: Array
    command: Array
    distance: Array
    measure: Array
    progress: Array
    touched: tuple[frozenset[str], ...]
    held: tuple[str | None, ...]
    places: Mapping[str, Array]
    actions: tuple[Action, ...]
    commanded: Array
    achieved: tuple[Achieved, ...]

    @property
    def steps(self) -> int:
        """Number of actions."""
        return len(self.actions)

    def moved(self, name: str) -> float:
        """Metres by which an object was away from where it began, at most."""
        places = self.places[name]
        return float(np.linalg.norm(places - places[0], axis=1).max())

    def grasps(self, name: str) -> list[tuple[int, int]]:
        """First and last state of every time that a block was grasped."""
        found, begin = [], None
        for i, held in enumerate((*self.held, None)):
            if held == name and begin is None:
                begin = i
            elif held != name and begin is not None:
                if i - begin >= GRASP_STEPS:
                    found.append((begin, i - 1))
                begin = None
        return found


@dataclass
class _Rows:
    """The same while it grows."""

    tcp: list[Any] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    measure: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    touched: list[frozenset[str]] = field(default_factory=list)
    held: list[str | None] = field(default_factory=list)
    places: dict[str, list[Any]] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)


def watch(world: World, states: Iterator[Step]) -> Trace:
    """See all states of one subtask, of which there is at least one.

    Args:
        world: the simulator's.
        states: of a replay with an oracle.
    """
    watcher = _Watcher(world, next(states))
    for state in states:
        watcher.take(state)
    return watcher.trace()


class _Watcher:
    """Looks at the states of one subtask, the one that it begins in first."""

    def __init__(self, world: World, begin: Step) -> None:
        assert begin.task is not None
        self._world, self._task = world, begin.task
        self._start = begin.info()
        self.meter = make_meter(begin.task, world, self._start)
        self._blocks = {body: name for name, body in world.blocks.items()}
        links = {link: name for name, link in world.links.items()}
        self._joints = [*world.doors, *(b.joint for b in world.buttons)]
        self._joints += [switch.joint for switch in world.switches]
        parts = {joint.name for joint in self._joints}
        self._parts = {
            link: joint for link, name in links.items()
            if (joint := _JOINT_PREFIX + name.removesuffix(_LINK_SUFFIX)) in parts
        }  # fmt: skip
        self._rows = _Rows()
        self._done: dict[str, int] = {}
        self._now: set[str] = set()
        self.take(begin)

    def take(self, step: Step) -> None:
        """See one more state."""
        info, obs, rows = step.info(), step.state()["robot_obs"], self._rows
        self._now = step.achieved(self._possible(info))
        for task in sorted(self._now - set(self._done)):
            self._done[task] = step.step
        rows.tcp.append(obs)
        rows.measure.append(self.meter.measure(info))
        rows.progress.append(progress(rows.measure[-1], achieved=self._task in self._now))
        rows.touched.append(self._touched(info))
        rows.held.append(self._held(info, obs))
        for name, place in self._places(info).items():
            rows.places.setdefault(name, []).append(place)
        rows.distance.append(self._distance(obs[:3]))
        if step.action is not None:
            rows.actions.append(step.action)

    def _possible(self, info: Mapping[str, Any]) -> list[str]:
        """All tasks but turns of blocks that have not turned, which take the oracle longest."""
        return [
            task
            for task, (kind, *arguments) in self._world.pack.tasks.items()
            if kind != "rotate_object" or self._has_turned(arguments[0], info)
        ]

    def _has_turned(self, block: str, info: Mapping[str, Any]) -> bool:
        now = np.array(block_of(info, block)["current_orn"])
        before = np.array(block_of(self._start, block)["current_orn"])
        return bool(abs(now @ before) < _UNTURNED)

    def _touched(self, info: Mapping[str, Any]) -> frozenset[str]:
        names = set()
        for contact in info["robot_info"]["contacts"]:
            if contact[BODY] in self._blocks:
                names.add(self._blocks[contact[BODY]])
            elif contact[BODY] == self._world.table:
                names.add(self._parts.get(contact[LINK], TABLE))
        return frozenset(names)

    def _held(self, info: Mapping[str, Any], obs: Array) -> str | None:
        """The block in the closed hand, the nearest if there are two."""
        if obs[14] > 0 or obs[6] < _GRIPPED:
            return None
        robot = robot_of(info)
        touched = [n for n in self._world.blocks if robot in bodies(block_of(info, n))]
        place = {n: np.array(block_of(info, n)["current_pos"]) for n in touched}
        return min(place, key=lambda n: float(np.linalg.norm(place[n] - obs[:3])), default=None)

    def _places(self, info: Mapping[str, Any]) -> dict[str, Any]:
        blocks = {name: block_of(info, name)["current_pos"] for name in self._world.blocks}
        return {**blocks, **{joint.name: (joint.position,) for joint in self._joints}}

    def _distance(self, tcp: Array) -> float:
        return min(
            float(np.linalg.norm(tcp - self._point(name, self._rows.places[name][-1])))
            for name in self.meter.objects
        )

    def _point(self, name: str, place: Any) -> Array:
        if name in self._world.blocks:
            return np.array(place)
        table = TABLES[self._world.scene.name]
        return np.array(grip_point(table, name.removeprefix(_JOINT_PREFIX), place[0]))

    def trace(self) -> Trace:
        """What was seen."""
        rows = self._rows
        obs = np.array(rows.tcp)
        return Trace(
            start_info=self._start,
            meter=self.meter,
            positions=obs[:, :3],
            joints=obs[:, 7:14],
            command=obs[:, 14],
            distance=np.array(rows.distance),
            measure=np.array(rows.measure),
            progress=np.array(rows.progress),
            touched=tuple(rows.touched),
            held=tuple(rows.held),
            places={name: np.array(places) for name, places in rows.places.items()},
            actions=tuple(rows.actions),
            commanded=self._commanded(obs[:-1, :3]),
            achieved=tuple(
                Achieved(task=task, first=first, lasting=task in self._now)
                for task, first in self._done.items()
            ),
        )

    def _commanded(self, tcp: Array) -> Array:
        """(T, 3) metres, from the (T, 3) positions of the hand before each action."""
        ways = np.zeros_like(tcp)
        for i, action in enumerate(self._rows.actions):
            parsed = parse_action(action)
            if parsed.kind == "cartesian_rel":
                ways[i] = np.asarray(parsed.position) * self._world.pack.robot.max_rel_pos
            elif parsed.position is not None:
                ways[i] = parsed.position - tcp[i]
        return ways
