"""The play table as a Gymnasium environment: `gymnasium.make("calvin_eval/PlayTable-v0")`.

Importing this module registers it; Gymnasium has no other way since its version 1. An episode is
one of the 34 tasks from a start of the kind that the benchmark's chains have, with a reward from
the same oracle. Needs the extra `calvin-eval[gym]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.extras import missing_extra
from calvin_eval.protocol import OFFICIAL
from calvin_eval.shifts import Shifts
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.env import make_env
from calvin_eval.sim.initial_states import initial_robot_obs
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import AssetPack, CameraSpec, load_pack
from calvin_eval.sim.progress import looked_at, make_meter, progress
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.symbolic import TASK_NAMES, SymbolicState, initial_states, outcomes

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise (missing_extra(error, "calvin_eval.sim.gym") or error) from error

ID = "calvin_eval/PlayTable-v0"
REWARDS: Final = ("sparse", "progress")
_ANYWHERE = 100.0
"""Metres from the table that no block reaches: it would have to be thrown."""

Observation: TypeAlias = "dict[str, NDArray[Any]]"
Action: TypeAlias = "NDArray[np.float32]"


class PlayTable(gymnasium.Env[Observation, Action]):
    """One task on the play table.

    Actions are CALVIN's relative 7-vectors in [-1, 1] (1 is 0.02 m or 0.05 rad); the gripper opens
    above zero and closes otherwise. Observations are a dict of `robot_obs` (15,) and `scene_obs`
    (24,) float64 and, per camera, `rgb_NAME` (H, W, 3) uint8. The reward is 1 when the oracle
    finds the task done, which ends the episode, and 0 otherwise; with `reward="progress"` it is
    what the step has added to the task's progress (docs/diagnose.md#progress), which is 1 when
    the task is done: the rewards of an episode sum to its progress at the end.

    `reset(options=…)` takes `task`, `robot_obs` and `scene_obs` for a start of one's own, and
    `shift`, such as "camera=3,layout=2", which is drawn anew at every reset.

    Args:
        scene: A, B, C or D.
        task: one of the 34, or several, of which one is drawn at every reset; of all if None.
        assets: `builtin`, `official`, the path of a checkout, or a loaded pack.
        revision: `pinned` or `head`.
        cameras: cameras whose images are observed; none are drawn by default.
        backend: the renderer: `auto`, `fast`, `gl`, `egl` or `tiny`.
        render_mode: None, or `rgb_array` for `render()`.
        reward: `sparse` or `progress`.
        shift: of every reset that is not given another one.
        repeat: simulator steps that an action is applied for, fewer when the task is done;
            nothing is drawn between them.

    Raises:
        UnknownNameError: no such scene, task, camera or reward.
        UsageError: a task that no chain starts with; a shift that there is not, or of language;
            a `repeat` below 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(  # noqa: PLR0913 (the arguments of gymnasium.make)
        self,
        scene: str = "D",
        task: str | Sequence[str] | None = None,
        *,
        assets: str | AssetPack = "builtin",
        revision: Any = OFFICIAL.revision,
        cameras: Sequence[str] = (),
        backend: str = "auto",
        render_mode: str | None = None,
        reward: str = "sparse",
        shift: str | None = None,
        repeat: int = 1,
    ) -> None:
        self._tasks = chosen_tasks(task)
        if repeat < 1:
            raise UsageError(f"expected repeat to be 1 or more; found {repeat}")
        self._repeat = repeat
        if render_mode not in (None, "rgb_array"):
            raise UnknownNameError("render mode", render_mode, ["rgb_array"])
        if reward not in REWARDS:
            raise UnknownNameError("reward", reward, REWARDS)
        _world_shifts(shift)
        pack = assets if isinstance(assets, AssetPack) else load_pack(assets)
        self.render_mode = render_mode
        self._dense, self._shift = reward == "progress", shift
        self._scene = pack.scene(scene)
        self._instructions = load_instructions("pack", pack.instructions)
        self._oracle = TaskOracle(pack)
        drawn = tuple(cameras) or (("static",) if render_mode else ())
        self._env = make_env(
            scene,
            assets=pack,
            revision=revision,
            render=backend if drawn else "none",
            cameras=drawn,
        )
        self._cameras = tuple(cameras)
        self.observation_space: Any = _observations([pack.cameras[name] for name in self._cameras])
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._present = ""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Build a fresh world in a start from which the task can be done.

        Raises:
            UsageError: a task that no chain starts with, without a start of one's own; a shift
                that there is not, or that this start or the renderer does not allow.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        self._present = self._choose(given)
        robot_obs, scene_obs = given.get("robot_obs"), given.get("scene_obs")
        if scene_obs is None:
            scene_obs = self._draw_start(self._present)
        robot_obs = initial_robot_obs() if robot_obs is None else robot_obs
        shift = given.get("shift", self._shift)
        self._env.start(*self._shifted(shift, robot_obs, scene_obs))
        self._needs = self._oracle.needs((self._present,))
        if self._dense:
            self._meter = make_meter(self._present, self._env.world, self._env.get_info())
            self._needs |= looked_at(self._env.world)
        self._start_info = self._env.get_info(self._needs)
        self._progress = self._measure(self._start_info, done=False)
        return self._observe(), self._facts(success=False)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action; `terminated` says that the task is done."""
        command = np.asarray(action, np.float64).copy()
        command[6] = 1.0 if command[6] > 0 else -1.0
        for _ in range(self._repeat):
            self._env.advance(command)
            info = self._env.get_info(self._needs)
            done = bool(self._oracle.achieved(self._start_info, info, (self._present,)))
            if done:
                break
        before, self._progress = self._progress, self._measure(info, done=done)
        reward = self._progress - before
        return self._observe(), reward, done, False, self._facts(success=done)

    def render(self) -> Any:
        """The static camera's image (200, 200, 3) uint8; None without a render mode."""
        return self._env.render() if self.render_mode else None

    def close(self) -> None:
        """Free the physics server."""
        self._env.close()

    def _measure(self, info: Mapping[str, Any], *, done: bool) -> float:
        """What the episode is worth until now: its rewards' sum."""
        if not self._dense:
            return float(done)
        return progress(self._meter.measure(info), achieved=done) + 0.0  # never -0

    def _choose(self, given: Mapping[str, Any]) -> str:
        task = given.get("task")
        if task is None:
            tasks = self._tasks
            return tasks[0] if len(tasks) == 1 else str(self.np_random.choice(tasks))
        if given.get("scene_obs") is None:
            _startable(task)
        elif task not in TASK_NAMES:
            raise UnknownNameError("task", task, TASK_NAMES)
        return str(task)

    def _shifted(self, shift: str | None, robot_obs: Any, scene_obs: Any) -> tuple[Any, ...]:
        """Returns what the world starts from: two states, and a variant where there is one."""
        shifts = _world_shifts(shift)
        if not shifts:
            return robot_obs, scene_obs
        chain = Chain(
            id=int(self.np_random.integers(2**31)),
            initial_state={},
            tasks=(self._present,),
            robot_obs=np.array(robot_obs, np.float64),
            scene_obs=np.array(scene_obs, np.float64),
            given=True,
        )
        chain = shifted(chain, shifts, self._scene)
        return chain.robot_obs, chain.scene_obs, chain.variant

    def _draw_start(self, task: str) -> NDArray[np.float64]:
        """Returns a start state in which the task can be done; no official chain has its poses."""
        starts = _starts(task)
        state = starts[int(self.np_random.integers(len(starts)))]
        salt = f"gym{int(self.np_random.integers(2**31))}:"
        return Chain.draw(0, state, (task,), salt=salt, scene=self._scene).scene_obs

    def _observe(self) -> Observation:
        seen = self._env.observe(rgb=self._cameras)
        images = {name: seen["rgb_obs"][name] for name in seen.get("rgb_obs", {})}
        return {"robot_obs": seen["robot_obs"], "scene_obs": seen["scene_obs"], **images}

    def _facts(self, *, success: bool) -> dict[str, Any]:
        text = self._instructions.text(self._present, 0, 0)
        facts = {"task": self._present, "instruction": text, "success": success}
        return {**facts, "progress": self._progress} if self._dense else facts


def _observations(cameras: Sequence[CameraSpec]) -> spaces.Dict:
    images = {
        f"rgb_{camera.name}": spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        for camera in cameras
    }
    robot = _box([3.0] * 3 + [np.pi] * 3 + [0.2] + [2 * np.pi] * 7 + [1.0])
    scene = _box([1.0] * 6 + [*[_ANYWHERE] * 3, *[np.pi] * 3] * 3)
    return spaces.Dict({"robot_obs": robot, "scene_obs": scene, **images})


def _box(limits: Sequence[float]) -> spaces.Box:
    high = np.array(limits)
    return spaces.Box(-high, high, dtype=np.float64)


def _starts(task: str) -> list[SymbolicState]:
    return [state for state in initial_states() if outcomes(state, task)]


def _world_shifts(text: str | None) -> Shifts:
    shifts = Shifts.parse(text)
    if shifts.level("language"):
        raise UsageError("expected shifts of the world in reset(options=…), found language")
    return shifts


def chosen_tasks(task: str | Sequence[str] | None) -> list[str]:
    """The tasks that episodes are drawn from; raises UsageError where no chain starts with one."""
    if task is None:
        return _startable_tasks()
    tasks = [task] if isinstance(task, str) else list(task)
    if not tasks:
        raise UsageError("expected at least one task, or None for all; found an empty list")
    for name in tasks:
        _startable(name)
    return tasks


def _startable_tasks() -> list[str]:
    return [task for task in TASK_NAMES if _starts(task)]


def _startable(task: str) -> None:
    if task not in TASK_NAMES:
        raise UnknownNameError("task", task, TASK_NAMES)
    if not _starts(task):
        raise UsageError(
            f"{task} cannot be the first task of a chain: expected one of "
            f"{', '.join(_startable_tasks())}, or a start of your own as "
            "reset(options={'task': …, 'robot_obs': …, 'scene_obs': …})"
        )


gymnasium.register(
    id=ID, entry_point="calvin_eval.sim.gym:PlayTable", max_episode_steps=OFFICIAL.steps
)
