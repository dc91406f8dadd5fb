"""Recorded actions, played back from recorded states: do they do what the labels say?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.rollouts.datasets.folder import Annotation, SplitFolder
from calvin_eval.rollouts.replay import replay
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.wrappers.policy import Action

Form: TypeAlias = Literal["rel_actions", "actions"]

_STATE: Final = ("robot_obs", "scene_obs")


@dataclass(frozen=True, kw_only=True)
class EpisodeReplay:
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
) -> Iterator[EpisodeReplay]:
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
        frames = [split.read(index, (form, *_STATE)) for index in range(first, last + 1)]
        yield _replay(env, oracle, episode, _Episode(first, frames, labels, form))


@dataclass(frozen=True)
class _Episode:
    """A recorded episode.

    Attributes:
        first: number of its first frame.
        frames: all of them.
        labels: those that lie in it.
        form: which of the recorded actions are played.
    """

    first: int
    frames: Sequence[Mapping[str, NDArray[Any]]]
    labels: Sequence[Annotation]
    form: Form

    def start(self, number: int) -> Chain:
        """Its first state; the tasks are the labels' business."""
        states = {name: np.array(self.frames[0][name], np.float64) for name in _STATE}
        return Chain(id=number, initial_state={}, tasks=(), **states)

    def action(self, frame: Mapping[str, NDArray[Any]]) -> Action:
        """What was done in a frame."""
        action = np.asarray(frame[self.form], np.float64)
        if self.form == "rel_actions":
            return action
        return action[:3], action[3:6], action[6]


def _replay(env: Simulator, oracle: TaskOracle, number: int, episode: _Episode) -> EpisodeReplay:
    actions = [episode.action(frame) for frame in episode.frames[:-1]]
    begun: dict[int, Mapping[str, Any]] = {}
    done: set[int] = set()
    error = 0.0
    for step in replay(env, episode.start(number), [actions], OFFICIAL):
        recorded = episode.frames[step.step]["robot_obs"][:3]
        reached = step.state()["robot_obs"][:3]
        error = max(error, float(np.linalg.norm(reached - recorded)))
        index = episode.first + step.step
        for i, label in enumerate(episode.labels):
            if label.first == index:
                begun[i] = step.info()
            elif label.first < index <= label.last and i not in done and label.task in oracle.tasks:
                done |= {i} if oracle.achieved(begun[i], step.info(), (label.task,)) else set()
    return EpisodeReplay(
        episode=number,
        tasks=tuple(label.task for label in episode.labels),
        done=tuple(i in done for i in range(len(episode.labels))),
        error=error,
    )
