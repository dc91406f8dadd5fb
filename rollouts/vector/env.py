"""A Gymnasium vector environment of play tables in worker processes.

Which worlds a call waits for: docs/learning.md#starts. Every world draws its starts from a seed of
its own, so that what happens in it depends on its seed and its actions alone: not on the number of
worlds or of processes, nor on which of them was faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from calvin_eval.rollouts.vector.asking import actions_of, reset_mask, seeds_of
from calvin_eval.rollouts.vector.crew import Crew
from calvin_eval.rollouts.vector.messages import (
    ACTION,
    OBSERVED,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Draw,
    Failed,
    Info,
    Observation,
    Restart,
    Restarted,
    Spaces,
    Step,
    Stepped,
)
from calvin_eval.rollouts.vector.shared import Field
from calvin_eval.rollouts.vector.starts import Starts

Outcome: TypeAlias = "tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]"
"""Observations, rewards, terminated, truncated, infos."""


class PlayTables(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """Many play tables; `make_vec` makes one.

    Args:
        crew: that builds the worlds.
        render_mode: as the worlds have it.
        copy: whether observations are the caller's own, or memory that the next step overwrites.
        wait_for_resets: whether `step` waits for worlds that start over.

    Attributes:
        autoreset_mode: Gymnasium's.
    """

    def __init__(
        self, crew: Crew, *, render_mode: str | None, copy: bool, wait_for_resets: bool
    ) -> None:
        self._crew, self._copy, self._patient = crew, copy, wait_for_resets
        builds = crew.builds
        self.num_envs = sum(len(build.worlds) for build in builds)
        self.autoreset_mode = AutoresetMode(builds[0].autoreset)
        self.render_mode = render_mode
        self._eager = builds[0].eager
        self._worker_of = [crew.worker_of(world) for world in range(self.num_envs)]
        spaces: Spaces = crew.first_answers()[0]
        self.metadata = {**spaces.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space: Any = spaces.observation
        self.single_action_space: Any = spaces.action
        self.observation_space = batch_space(spaces.observation, self.num_envs)
        self.action_space = batch_space(spaces.action, self.num_envs)
        self._arrays = crew.share(self._fields())
        self._observed = {name: self._arrays[OBSERVED + name] for name in spaces.observation}
        self._starts = Starts(self.num_envs)
        self._asked = False  # whether a step is under way
        self._resting: set[int] = set()  # worlds that it leaves alone
        self._waited: set[int] = set()  # worlds that a reset waits for
        self._busy: set[int] = set()  # workers with a message other than a start
        self._infos: dict[int, Info] = {}
        self._images: dict[int, Sequence[Any]] = {}
        self._errors: list[Exception] = []

    def _fields(self) -> dict[str, Field]:
        fields = {
            OBSERVED + name: Field((self.num_envs, *space.shape), np.dtype(space.dtype).str)
            for name, space in self.single_observation_space.items()
        }
        one, flag = np.dtype(np.float64).str, np.dtype(np.bool_).str
        action = self.single_action_space
        fields[ACTION] = Field((self.num_envs, *action.shape), np.dtype(action.dtype).str)
        fields[REWARD] = Field((self.num_envs,), one)
        fields[TERMINATED] = fields[TRUNCATED] = Field((self.num_envs,), flag)
        return fields

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Start worlds over, and wait for them.

        Args:
            seed: of world 0, the next ones get the next numbers; or one for each; None goes on
                drawing.
            options: what the single environment takes, for all worlds; and `reset_mask`, bools
                (num_envs,), which worlds are meant.

        Returns:
            The observations of all worlds, and what is to be said of those that were started.

        Raises:
            UsageError: a mask or seeds of another form; options that no world can start with.
            WorldLostError: a worker process is gone.
        """
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(
        self,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin `reset`. The worlds that are not meant can be stepped meanwhile."""
        self._need_free("reset_async")
        given = dict(options or {})
        meant = reset_mask(given.pop("reset_mask", None), self.num_envs)
        seeds = seeds_of(seed, self.num_envs)
        self._clear()
        for world in meant:
            self._order(self._starts.order(world, seeds[world], given or None))
            self._waited.add(world)

    def reset_wait(self) -> tuple[Observation, Info]:
        """Finish `reset_async`.

        Raises:
            NoAsyncCallError: there is none that `step` has not finished.
        """
        self._need_open()
        if not self._waited:
            raise NoAsyncCallError("reset_wait without a reset_async before it", "reset")
        self._receive(lambda: not self._waited & self._starts.starting)
        waited, self._waited = self._waited, set()
        self._show(waited)
        self._raise_errors()
        return self._observations(), self._gathered()

    def step(self, actions: Any) -> Outcome:
        """Step all worlds that have begun; `actions` is (num_envs, 7).

        The action of a world that starts over is ignored; see docs/learning.md#starts.

        Raises:
            InvalidActionError: another shape, or not finite; nothing has moved.
            ResetNeeded: a world has never been started, or is at its end and autoreset disabled.
            WorldLostError: a worker process is gone.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin `step`."""
        self._need_free("step_async")
        array = actions_of(actions, self._arrays[ACTION].shape)
        next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP
        due = self._starts.ended.copy() if next_step else set()
        asleep = self._starts.asleep | due
        self._need_begun(set(range(self.num_envs)) - asleep)
        self._arrays[ACTION][:] = array
        self._asked, self._resting = True, asleep
        self._clear()
        for worker, build in enumerate(self._crew.builds):
            if worlds := tuple(w for w in build.worlds if w not in asleep):
                self._crew.tell(worker, Step(worlds=worlds))
                self._busy.add(worker)
        for world in sorted(due):
            self._order(self._starts.order(world))

    def step_wait(self) -> Outcome:
        """Finish `step_async`."""
        self._need_open()
        if not self._asked:
            raise NoAsyncCallError("step_wait without a step_async before it", "step")
        self._receive(self._stepped)
        self._asked = False
        self._raise_errors()
        stepped = np.ones(self.num_envs, np.bool_)
        stepped[list(self._resting)] = False
        rewards = np.where(stepped, self._arrays[REWARD], 0.0)
        terminated = stepped & self._arrays[TERMINATED]
        truncated = stepped & self._arrays[TRUNCATED]
        self._show(self._resting)
        self._waited &= self._starts.starting
        infos = self._gathered()
        if not self._patient:
            resetting = np.isin(np.arange(self.num_envs), list(self._resting & self._starts.asleep))
            infos = {**infos, "stepped": stepped, "resetting": resetting}
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            ends = map(int, np.flatnonzero(terminated | truncated))
            self._starts.end(ends, starts=self._eager)
        return self._observations(), rewards, terminated, truncated, infos

    def _stepped(self) -> bool:
        """Whether the step under way has all that it waits for."""
        late = self._resting & self._starts.starting
        if self._patient:
            return not self._busy and not late
        # Without any world to step, at least one has to start.
        return not self._busy and len(late) < self.num_envs

    def _order(self, order: Restart) -> None:
        self._crew.tell(self._worker_of[order.world], order)

    def render(self) -> tuple[Any, ...] | None:
        """The worlds' images (200, 200, 3) uint8 from the static camera; None without a mode."""
        if self.render_mode is None:
            return None
        self._need_free("render")
        for worker in range(len(self._crew.builds)):
            self._crew.tell(worker, Draw())
            self._busy.add(worker)
        self._receive(lambda: not self._busy)
        self._raise_errors()
        frames: dict[int, Any] = {}
        for worker, build in enumerate(self._crew.builds):
            frames.update(zip(build.worlds, self._images[worker], strict=True))
        return tuple(frames[world] for world in range(self.num_envs))

    def close_extras(self, **_kwargs: Any) -> None:
        """End the worker processes."""
        self._crew.close()

    def __del__(self) -> None:
        if not self.closed and hasattr(self, "_crew"):
            self.close()

    def _receive(self, enough: Callable[[], bool]) -> None:
        for worker, answer in self._crew.answers(enough):
            if isinstance(answer, Restarted | Failed) and answer.world >= 0:
                if error := self._starts.take(answer):
                    self._errors.append(error)
                continue
            self._busy.discard(worker)
            if isinstance(answer, Failed):
                self._errors.append(answer.error)
            elif isinstance(answer, Stepped):
                self._infos.update(answer.infos)
            else:
                self._images[worker] = answer

    def _show(self, worlds: Iterable[int]) -> None:
        """Let the starts of worlds be seen: they can be stepped from now on."""
        for start in self._starts.show(worlds):
            self._infos[start.world] = start.info
            for name, value in start.obs.items():
                self._observed[name][start.world] = value

    def _gathered(self) -> Info:
        infos: Info = {}
        for world, info in sorted(self._infos.items()):
            infos = self._add_info(infos, info, world)
        return infos

    def _observations(self) -> Observation:
        return {n: a.copy() if self._copy else a for n, a in self._observed.items()}

    def _clear(self) -> None:
        self._infos.clear()
        self._errors.clear()

    def _need_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this vector environment is closed; make a new one")
        self._crew.check()

    def _need_free(self, call: str) -> None:
        self._need_open()
        if self._asked:
            raise AlreadyPendingCallError(
                f"{call} while a step is under way: call step_wait first", "step"
            )

    def _need_begun(self, worlds: set[int]) -> None:
        missing, why = self._starts.missing(worlds)
        if missing:
            raise ResetNeeded(
                f"worlds {missing} are {why}: expected reset(), or "
                "reset(options={'reset_mask': …}) for these alone, before step()"
            )

    def _raise_errors(self) -> None:
        if self._errors:
            raise self._errors[0]
