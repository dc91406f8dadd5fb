"""Stretches of a data set, simulated again: what was done, and how far the states stay the same.

Runs in the caller's process or in a worker of `WorkerPool`; never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import AssetError, CalvinEvalError, UsageError
from calvin_eval.foreign.splits import Annotation, BrokenFrameError, Split
from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.rollouts.datasets.drift import distances
from calvin_eval.rollouts.datasets.opening import open_dataset
from calvin_eval.rollouts.recording.tape import EXECUTED
from calvin_eval.rollouts.replay import Step, replay
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.world import finite_array
from calvin_eval.wrappers.policy import Action

Form: TypeAlias = Literal["rel_actions", "actions"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
Verdict: TypeAlias = Literal["confirmed", "not reproduced", "wrong", "unchecked"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)

_STATE: Final = {"robot_obs": 15, "scene_obs": 24}


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive frames that are played back at one go.

    Attributes:
        split: the folder.
        first: number of the frame whose state the world is reset to.
        last: number of the last frame, which shows where the last action led.
        scene: A, B, C or D.
        labels: annotations that lie in it.
    """

    split: Path
    first: int
    last: int
    scene: str
    labels: tuple[Annotation, ...]


@dataclass(frozen=True, kw_only=True)
class JudgedLabel:
    """An annotation, and what was really done in its frames.

    Attributes:
        annotation: what it says.
        recorded: tasks that the oracle sees between the recorded states of its first and its last
            frame; the world is reset to both, and nothing is played.
        replayed: tasks that the oracle sees while the actions are played back, each with the
            first step, counted from the annotation's first frame, after which it does.
        reason: why it could not be checked; empty if it could.
    """

    annotation: Annotation
    recorded: tuple[str, ...] = ()
    replayed: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """What it comes to.

        `confirmed`: playing the actions back does the task. `not reproduced`: only the recorded
        states show it. `wrong`: neither. `unchecked`: see `reason`.
        """
        if self.reason:
            return "unchecked"
        if self.annotation.task in self.replayed:
            return "confirmed"
        return "not reproduced" if self.annotation.task in self.recorded else "wrong"

    @property
    def done(self) -> tuple[str, ...]:
        """All tasks that were done, by either way of looking."""
        return tuple(sorted({*self.recorded, *self.replayed}))


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of a stretch.

    Attributes:
        labels: in the order of the stretch's own.
        drift: by the names of `drift.MEASURES`, distances after every step; index 0 is the start.
    """

    labels: tuple[JudgedLabel, ...]
    drift: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlaybackSetup:
    """What a process needs for any stretch.

    Attributes:
        simulator: whose scene is replaced by the stretch's.
        form: which of the recorded actions are played.
        keys: names of features, see `open_dataset`.
    """

    simulator: SimulatorSpec
    form: Form = "rel_actions"
    keys: Mapping[str, str] = field(default_factory=dict)


class Player:
    """Plays stretches back, one after another; the simulator stays as long as the scene does."""

    def __init__(self, setup: PlaybackSetup) -> None:
        self._setup = setup
        self._oracle = TaskOracle(load_pack(setup.simulator.assets, verify=False))
        self._env: Simulator | None = None
        self._scene = ""
        self._splits: dict[Path, Split] = {}

    @classmethod
    def build(cls, setup: PlaybackSetup) -> Player:
        """Make one."""
        return cls(setup)

    def answer(self, stretch: Stretch) -> Played:
        """Play a stretch back.

        Raises:
            AssetError: the simulator cannot play any.
        """
        try:
            if stretch.split not in self._splits:
                (self._splits[stretch.split],) = open_dataset(stretch.split, self._setup.keys)
            split = self._splits[stretch.split]
            frames = _Frames(stretch, split, self._setup.form)
            return self._play(self._simulator(stretch.scene), frames)
        except AssetError:
            raise
        except (CalvinEvalError, ValueError, TypeError) as error:  # frames hold anything
            return unchecked(stretch, str(error))

    def close(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _simulator(self, scene: str) -> Simulator:
        if self._env is None or scene != self._scene:
            self.close()
            self._env = replace(self._setup.simulator, scene=scene).build()
            self._scene = scene
        return self._env

    def _play(self, env: Simulator, frames: _Frames) -> Played:
        labels = [_Judge(a, self._oracle) for a in frames.stretch.labels]
        drift: dict[str, list[float]] = {}
        for step in replay(env, frames.start(), [frames.actions], OFFICIAL):
            index = frames.stretch.first + step.step
            for name, value in distances(step.state(), frames.states[step.step]).items():
                drift.setdefault(name, []).append(value)
            for label in labels:
                label.see(index, step)
        return Played(
            labels=tuple(label.judged(self._in_states(env, frames, label)) for label in labels),
            drift=drift,
        )

    def _in_states(self, env: Simulator, frames: _Frames, label: _Judge) -> tuple[str, ...]:
        """The tasks between the recorded states of a label's first and last frame."""
        infos = []
        for index in (label.annotation.first, label.annotation.last):
            state = frames.states[index - frames.stretch.first]
            env.start(state["robot_obs"], state["scene_obs"])
            infos.append(env.get_info())
        return tuple(sorted(self._oracle.achieved(*infos)))


def unchecked(stretch: Stretch, reason: str) -> Played:
    """The result of a stretch that could not be played."""
    return Played(labels=tuple(JudgedLabel(annotation=a, reason=reason) for a in stretch.labels))


class _Frames:
    """What is read of a stretch.

    Attributes:
        states: `robot_obs` (15,) and `scene_obs` (24,) float64 of every frame.
        actions: those of all frames but the last.
    """

    def __init__(self, stretch: Stretch, split: Split, form: Form) -> None:
        self.stretch = stretch
        self.states: list[dict[str, NDArray[np.float64]]] = []
        self.actions: list[Action] = []
        if any(not stretch.first <= a.first < a.last for a in stretch.labels):
            raise UsageError("expected an annotation of two frames or more, found none")
        name = EXECUTED if form == "rel_actions" and _has_executed(split, stretch.first) else form
        for index in range(stretch.first, stretch.last + 1):
            frame = split.read(index, (name, *_STATE))
            self.states.append({k: finite_array(frame[k], k, n) for k, n in _STATE.items()})
            if index < stretch.last:
                self.actions.append(_action(frame[name], form))

    def start(self) -> Chain:
        """The first state; the tasks are the labels' business."""
        robot, scene = (self.states[0][name] for name in _STATE)
        return Chain(id=0, initial_state={}, tasks=(), given=True, robot_obs=robot, scene_obs=scene)


def _has_executed(split: Split, index: int) -> bool:
    """Whether frames hold what was executed apart from what an expert said of it."""
    try:
        return split.native and bool(len(split.read(index, (EXECUTED,))))
    except BrokenFrameError:
        return False


def _action(values: Any, form: Form) -> Action:
    """What was done in a frame, as the simulator takes it."""
    action = np.asarray(values, np.float64)
    return action if form == "rel_actions" else (action[:3], action[3:6], action[6])


class _Judge:
    """Watches the frames of one annotation."""

    def __init__(self, annotation: Annotation, oracle: TaskOracle) -> None:
        self.annotation = annotation
        self._oracle = oracle
        self._begun: Mapping[str, Any] = {}
        self._done: dict[str, int] = {}

    def see(self, index: int, step: Step) -> None:
        """Look at the state that belongs to a frame."""
        if index == self.annotation.first:
            self._begun = step.info()
        elif self.annotation.first < index <= self.annotation.last:
            for task in sorted(self._oracle.achieved(self._begun, step.info())):
                self._done.setdefault(task, index - self.annotation.first)

    def judged(self, recorded: tuple[str, ...]) -> JudgedLabel:
        """What it comes to."""
        if self.annotation.task in self._oracle.tasks:
            return JudgedLabel(
                annotation=self.annotation, recorded=recorded, replayed=dict(self._done)
            )
        named = f"the task {self.annotation.task!r} is none of CALVIN's 34"
        reason = named if self.annotation.task else "it has a sentence and no task"
        return JudgedLabel(
            annotation=self.annotation, recorded=recorded, replayed=dict(self._done), reason=reason
        )
