"""Makes a vector environment: how many processes, which worlds each of them has."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.extras import missing_extra
from calvin_eval.protocol import OFFICIAL

try:
    from gymnasium.vector import AutoresetMode
except ModuleNotFoundError as error:
    raise (missing_extra(error, "calvin_eval.make_vec") or error) from error

from calvin_eval.rollouts.processes import usable_cores
from calvin_eval.rollouts.vector.crew import Crew
from calvin_eval.rollouts.vector.env import PlayTables
from calvin_eval.rollouts.vector.messages import Build
from calvin_eval.sim.gym import PlayTable, chosen_tasks
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.render import resolve_backend

Mode: TypeAlias = "AutoresetMode | str"


def make_vec(
    num_envs: int,
    *,
    autoreset_mode: Mode = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    workers: int | None = None,
    copy: bool = True,
    wait_for_resets: bool = True,
    **table: Any,
) -> PlayTables:
    """Make many play tables that run side by side, as one Gymnasium `VectorEnv`.

    Args:
        num_envs: worlds. Each takes the memory of a Bullet world (docs/learning.md#memory).
        autoreset_mode: what happens at the end of an episode; Gymnasium's `NextStep`, `SameStep`
            or `Disabled`.
        max_episode_steps: actions after which an episode is truncated; the benchmark's 360 steps
            of the simulator if None.
        workers: processes, among which the worlds are shared out; one a core, but one a world
            with EGL, if None. With one a world, a start delays no other world.
        copy: whether observations are the caller's own, or memory that the next step overwrites.
        wait_for_resets: whether `step` waits for worlds that start over. If not, their rows are
            repeated with no reward until they have started, and `infos["stepped"]` says which
            rows are steps.
        **table: what `calvin_eval.sim.gym.PlayTable` takes: `scene`, `task`, `assets`, `revision`,
            `cameras`, `backend`, `render_mode`, `reward`, `shift`, `repeat`.

    Raises:
        UsageError: an argument of another form; a task that no chain starts with.
        CalvinEvalError: the worlds cannot be built; the message says why.
    """
    _check_names(table)
    mode = _mode(autoreset_mode)
    _check_count("num_envs", num_envs)
    _check_count("repeat", repeat := table.get("repeat", 1))
    if max_episode_steps is None:
        max_episode_steps = -(-OFFICIAL.steps // repeat)
    _check_count("max_episode_steps", max_episode_steps)
    table = _resolved(table)
    alone = table.get("backend") == "egl" and _draws(table)
    count = workers
    if count is None:
        count = num_envs if alone else usable_cores()
    _check_count("workers", count)
    count = min(count, num_envs)
    if alone and count < num_envs:
        raise UsageError(
            f"expected workers={num_envs}: EGL draws one world in a process; found {count}. "
            "Or choose backend='fast'."
        )
    crew = Crew(
        [
            Build(
                worlds=tuple(range(worker, num_envs, count)),
                table=table,
                max_steps=max_episode_steps,
                autoreset=mode.value,
                # A world that is rendered is seen at its end until it is asked to start over.
                eager=mode == AutoresetMode.NEXT_STEP and table.get("render_mode") is None,
            )
            for worker in range(count)
        ]
    )
    try:
        return PlayTables(
            crew,
            render_mode=table.get("render_mode"),
            copy=copy,
            wait_for_resets=wait_for_resets,
        )
    except BaseException:
        crew.close()
        raise


def _check_names(table: dict[str, Any]) -> None:
    known = list(inspect.signature(PlayTable).parameters)
    for name in table:
        if name not in known:
            raise UnknownNameError("argument of make_vec", name, known)


def _check_count(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UsageError(f"expected {name} to be a whole number from 1 up; found {number!r}")


def _mode(given: Mode) -> AutoresetMode:
    modes = {mode.value: mode for mode in AutoresetMode}
    value = given.value if isinstance(given, AutoresetMode) else given
    if value not in modes:
        raise UnknownNameError("autoreset mode", value, modes)
    return modes[value]


def _draws(table: dict[str, Any]) -> bool:
    return bool(table.get("cameras")) or table.get("render_mode") is not None


def _resolved(table: dict[str, Any]) -> dict[str, Any]:
    """The pack verified once, and the renderer chosen and told here, not in every worker."""
    pack = load_pack(table.get("assets", "builtin"))
    resolved = {**table, "assets": str(table.get("assets", "builtin"))}
    pack.scene(table.get("scene", "D"))
    chosen_tasks(table.get("task"))
    if _draws(table):
        resolved["backend"] = resolve_backend(table.get("backend", "auto")).backend
    return resolved
