"""Recorded actions, played back from recorded states: do they do what the labels say?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.rollouts.chain import Simulator
from calvin_eval.rollouts.datasets.folder import Annotation, SplitFolder
from calvin_eval.sim.oracle import TaskOracle

Form: TypeAlias = Literal["rel_actions", "actions"]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What became of an episode's labels when its actions were played back.

    Attributes:
        episode: position in `ep_start_end_ids.npy`.
        tasks: what its labels say was done.
        done: for each, whether it was done again.
        error: largest distance in metres between recorded and replayed tcp.
    """

    episode: int
    tasks: tuple[str, ...]
    done: tuple[bool, ...]
    error: float

    @property
    def same(self) -> bool:
        """Whether every labelled task was done again."""
        return all(self.done)


def replay_episodes(
    split: SplitFolder,
    episodes: Sequence[int],
    simulator: Callable[[str], Simulator],
    oracle: TaskOracle,
    *,
    form: Form = "rel_actions",
) -> Iterator[Replay]:
    """Play episodes back, each from the state of its first frame to its end.

    A task counts as done if the oracle sees it between the first frame of the label's span and any
    later one of it. Several labels may lie in one episode; they share one world.

    Args:
        split: with annotations.
        episodes: positions in its ranges.
        simulator: makes the simulator of a scene, or gives the one that is there.
        oracle: judges.
        form: which of the recorded actions are played.
    """
    for episode in episodes:
        first, last = map(int, split.ranges[episode])
        labels = [a for a in split.annotations or () if first <= a.first and a.last <= last]
        env = simulator(split.scene(first) or "D")
        yield _replay(split, episode, (first, last), labels, _Player(env, oracle, form))


class _Player:
    """A simulator that is watched for tasks."""

    def __init__(self, env: Simulator, oracle: TaskOracle, form: Form) -> None:
        self.env = env
        self._oracle = oracle
        self._form = form
        self._starts: dict[int, Any] = {}
        self.done: set[int] = set()

    def begin(self, number: int) -> None:
        """A label's span begins here."""
        self._starts[number] = self.env.get_info()

    def judge(self, number: int, task: str) -> None:
        """Whether the label's task has been done by now."""
        start = self._starts.get(number)
        if start is None or number in self.done or task not in self._oracle.tasks:
            return
        if self._oracle.achieved(start, self.env.get_info(), (task,)):
            self.done.add(number)

    def act(self, frame: dict[str, NDArray[Any]]) -> None:
        """Take a frame's action."""
        action = np.asarray(frame[self._form], np.float64)
        if self._form == "rel_actions":
            self.env.advance(action)
        else:
            self.env.advance((action[:3], action[3:6], action[6]))


def _replay(
    split: SplitFolder,
    episode: int,
    ends: tuple[int, int],
    labels: Sequence[Annotation],
    player: _Player,
) -> Replay:
    first, last = ends
    error = 0.0
    for index in range(first, last + 1):
        frame = split.read(index, ("actions", "rel_actions", "robot_obs", "scene_obs"))
        if index == first:
            player.env.start(frame["robot_obs"], frame["scene_obs"])
        reached = player.env.get_state_obs()["robot_obs"][:3]
        error = max(error, float(np.linalg.norm(reached - frame["robot_obs"][:3])))
        for number, label in enumerate(labels):
            if label.first == index:
                player.begin(number)
            if label.first < index <= label.last:
                player.judge(number, label.task)
        player.act(frame)
    return Replay(
        episode=episode,
        tasks=tuple(label.task for label in labels),
        done=tuple(number in player.done for number in range(len(labels))),
        error=error,
    )
