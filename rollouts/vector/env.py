"""A Gymnasium vector environment of play tables in worker processes.

Which worlds a call waits for: docs/learning.md#starts. Every world draws its starts from a seed of
its own, so that what happens in it depends on its seed and its actions alone: not on the number of
worlds or of processes, nor on which of them was faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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

from calvin_eval.errors import InvalidActionError, UsageError
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

Flags = NDArray[np.bool_]


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
        self.single_observation_space = spaces.observation
        self.single_action_space = spaces.action
        self.observation_space = batch_space(spaces.observation, self.num_envs)
        self.action_space = batch_space(spaces.action, self.num_envs)
        self._arrays = crew.share(self._fields())
        self._observed = {name: self._arrays[OBSERVED + name] for name in spaces.observation}
        self._asked: str | None = None  # the call that is to be followed by its `_wait`
        self._serials = [0] * self.num_envs
        self._begun: set[int] = set()  # worlds that can be stepped
        self._ended: set[int] = set()  # whose episode is over, and that nobody starts
        self._starting: set[int] = set()
        self._by_itself: set[int] = set()  # of these and the next, those nobody asked to start
        self._unseen: dict[int, Restarted] = {}  # that have started; no call has returned it
        self._waited: set[int] = set()  # worlds that a reset waits for
        self._resting: set[int] = set()  # worlds that the step under way leaves alone
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
        mask = _mask(given.pop("reset_mask", None), self.num_envs)
        seeds = _seeds(seed, self.num_envs)
        self._errors.clear()
        for world in map(int, np.flatnonzero(mask)):
            self._start(world, seeds[world], given or None)
            self._waited.add(world)

    def reset_wait(self) -> tuple[Observation, Info]:
        """Finish `reset_async`.

        Raises:
            NoAsyncCallError: there is none that `step` has not finished.
        """
        self._need_open()
        if not self._waited:
            raise NoAsyncCallError("reset_wait without a reset_async before it", "reset")
        self._receive(lambda: not self._waited & self._starting)
        waited, self._waited = self._waited, set()
        infos = self._show(waited)
        self._raise_errors()
        return self._observations(), infos

    def step(
        self, actions: Any
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
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
        array = self._actions(actions)
        asleep = self._starting | self._unseen.keys()
        self._need_begun(set(range(self.num_envs)) - asleep)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            asleep = asleep | self._ended
        self._arrays[ACTION][:] = array
        self._asked, self._resting = "step", asleep
        self._infos.clear()
        self._errors.clear()
        for worker, build in enumerate(self._crew.builds):
            if worlds := tuple(w for w in build.worlds if w not in asleep):
                self._crew.tell(worker, Step(worlds=worlds))
                self._busy.add(worker)
        for world in sorted(self._ended & asleep):
            self._start(world, None, None)

    def step_wait(
        self,
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Finish `step_async`."""
        self._need_open()
        if self._asked != "step":
            raise NoAsyncCallError("step_wait without a step_async before it", "step")
        resting = self._resting if self._patient else set()
        self._receive(lambda: not self._busy and not resting & self._starting)
        self._asked = None
        self._raise_errors()
        infos: Info = {}
        for world, info in sorted(self._infos.items()):
            infos = self._add_info(infos, info, world)
        stepped = np.ones(self.num_envs, np.bool_)
        stepped[list(self._resting)] = False
        rewards = np.where(stepped, self._arrays[REWARD], 0.0)
        terminated = stepped & self._arrays[TERMINATED]
        truncated = stepped & self._arrays[TRUNCATED]
        infos = self._show(self._resting & self._unseen.keys(), infos)
        if not self._patient:
            infos = self._mark(infos, stepped)
        self._waited &= self._starting
        self._note_ends(terminated | truncated)
        return self._observations(), rewards, terminated, truncated, infos

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

    def _start(self, world: int, seed: int | None, options: Info | None) -> None:
        instead = world in self._by_itself
        self._serials[world] += 1
        order = Restart(
            world=world, serial=self._serials[world], seed=seed, options=options, instead=instead
        )
        self._crew.tell(self._worker_of[world], order)
        self._forget(world)
        self._starting.add(world)

    def _forget(self, world: int) -> None:
        """A world that starts over is in no state but that."""
        self._unseen.pop(world, None)
        for worlds in (self._begun, self._ended, self._by_itself):
            worlds.discard(world)

    def _receive(self, enough: Any) -> None:
        for worker, answer in self._crew.answers(enough):
            if isinstance(answer, Restarted | Failed) and answer.world >= 0:
                self._take_start(answer)
                continue
            self._busy.discard(worker)
            if isinstance(answer, Failed):
                self._errors.append(answer.error)
            elif isinstance(answer, Stepped):
                self._infos.update(answer.infos)
            else:
                self._images[worker] = answer

    def _take_start(self, answer: Restarted | Failed) -> None:
        world = answer.world
        if answer.serial != self._serials[world]:
            return  # an order after this one
        self._starting.discard(world)
        if isinstance(answer, Failed):
            self._forget(world)
            self._errors.append(answer.error)
        else:
            self._unseen[world] = answer

    def _show(self, worlds: Iterable[int], infos: Info | None = None) -> Info:
        """Let the starts of worlds be seen: they can be stepped from now on."""
        infos = infos or {}
        for world in sorted(worlds):
            if world in self._unseen:
                start = self._unseen[world]
                self._forget(world)
                self._begun.add(world)
                for name, value in start.obs.items():
                    self._observed[name][world] = value
                infos = self._add_info(infos, start.info, world)
        return infos

    def _mark(self, infos: Info, stepped: Flags) -> Info:
        resetting = np.isin(np.arange(self.num_envs), list(self._starting))
        return {**infos, "stepped": stepped, "resetting": resetting & ~stepped}

    def _note_ends(self, ends: Flags) -> None:
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            return
        for world in map(int, np.flatnonzero(ends)):
            self._begun.discard(world)
            if self._eager:
                self._serials[world] += 1
                self._starting.add(world)
                self._by_itself.add(world)
            else:
                self._ended.add(world)

    def _observations(self) -> Observation:
        return {n: a.copy() if self._copy else a for n, a in self._observed.items()}

    def _actions(self, actions: Any) -> NDArray[np.float32]:
        array = np.asarray(actions, np.float32)
        expected = self.action_space.shape
        if array.shape != expected or not np.isfinite(array).all():
            raise InvalidActionError(
                f"expected finite actions of shape {expected}, one row a world; found shape "
                f"{array.shape}{'' if array.shape != expected else ' with NaN or infinity'}"
            )
        return array

    def _need_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this vector environment is closed; make a new one")

    def _need_free(self, call: str) -> None:
        self._need_open()
        if self._asked is not None:
            raise AlreadyPendingCallError(
                f"{call} while a step is under way: call step_wait first", self._asked
            )

    def _need_begun(self, worlds: set[int]) -> None:
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            worlds = worlds - self._ended
        if missing := sorted(worlds - self._begun):
            why = "at the end of their episodes" if self._ended & set(missing) else "not started"
            raise ResetNeeded(
                f"worlds {missing} are {why}: expected reset(), or "
                "reset(options={'reset_mask': …}) for these alone, before step()"
            )

    def _raise_errors(self) -> None:
        if self._errors:
            raise self._errors[0]


def _mask(given: Any, worlds: int) -> Flags:
    if given is None:
        return np.ones(worlds, np.bool_)
    mask = np.asarray(given)
    if mask.shape != (worlds,) or mask.dtype != np.bool_ or not mask.any():
        raise UsageError(
            f"expected options['reset_mask'] to be {worlds} bools, at least one of them True; "
            f"found {mask.dtype} of shape {mask.shape}: {mask.tolist()!s:.80}"
        )
    return mask


def _seeds(seed: int | Sequence[int | None] | None, worlds: int) -> list[int | None]:
    if seed is None:
        return [None] * worlds
    if isinstance(seed, int | np.integer):
        return [int(seed) + world for world in range(worlds)]
    seeds = [None if s is None else int(s) for s in seed]
    if len(seeds) != worlds:
        raise UsageError(f"expected one seed, or one for each of {worlds} worlds; found {seeds}")
    return seeds
