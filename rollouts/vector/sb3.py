"""Our vector environment as Stable-Baselines3 wants one: its `VecEnv`, which is not Gymnasium's.

Stable-Baselines3 is the user's own: no extra of calvin-eval brings it, and nothing else of ours
imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.vector.env import PlayTables

try:
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise UsageError(
        "calvin_eval.rollouts.vector.sb3 needs stable_baselines3 (not installed): "
        "pip install stable-baselines3"
    ) from error


class StableBaselines(VecEnv):  # type: ignore[misc]  # it may not be installed
    """A `VecEnv` over play tables.

    `TimeLimit.truncated` and `terminal_observation` are where Stable-Baselines3 looks for them.
    Closing it closes the play tables.

    Args:
        tables: of `make_vec(…, autoreset_mode="SameStep")`, as Stable-Baselines3 counts steps.

    Raises:
        UsageError: another mode.
    """

    def __init__(self, tables: PlayTables) -> None:
        if tables.autoreset_mode != AutoresetMode.SAME_STEP:
            raise UsageError(
                "expected make_vec(…, autoreset_mode='SameStep') for Stable-Baselines3; found "
                f"{tables.autoreset_mode.value!r}"
            )
        self.tables = tables
        super().__init__(
            tables.num_envs, tables.single_observation_space, tables.single_action_space
        )

    def reset(self) -> dict[str, NDArray[Any]]:
        """Observations of new episodes; `seed` and `set_options` before it hold for it."""
        options = self._options[0] or None
        if any(other != self._options[0] for other in self._options):
            raise UsageError("expected the same options for all worlds")
        obs, infos = self.tables.reset(seed=self._seeds, options=options)
        self.reset_infos = [row(infos, world) for world in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step."""
        self.tables.step_async(actions)

    def step_wait(
        self,
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32], NDArray[np.bool_], list[Any]]:
        """Observations, rewards, whether episodes ended, and a dict for each world."""
        obs, rewards, terminated, truncated, infos = self.tables.step_wait()
        facts = []
        for world in range(self.num_envs):
            info = row(infos, world)
            final = info.pop("final_obs", None)
            if final is not None:
                self.reset_infos[world] = {k: v for k, v in info.items() if k != "final_info"}
                info = {**info["final_info"], "terminal_observation": final}
            late = bool(truncated[world] and not terminated[world])
            facts.append({**info, "TimeLimit.truncated": late})
        return obs, rewards.astype(np.float32), terminated | truncated, facts

    def close(self) -> None:
        """End the worker processes."""
        self.tables.close()

    def get_images(self) -> Sequence[Any]:
        """The worlds' images, with `render_mode="rgb_array"`."""
        return self.tables.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, once for each world."""
        return [getattr(self.tables, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the worlds are in other processes."""
        raise _elsewhere(attr_name)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Refused: the worlds are in other processes."""
        raise _elsewhere(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No world has a wrapper of Stable-Baselines3."""
        return [False for _ in self._get_indices(indices)]


def row(infos: Mapping[str, Any], world: int) -> dict[str, Any]:
    """What Gymnasium's infos of all worlds say of one of them."""
    found = {}
    for key, values in infos.items():
        if key.startswith("_") or not infos.get(f"_{key}", np.array([True] * (world + 1)))[world]:
            continue
        found[key] = row(values, world) if isinstance(values, dict) else values[world]
    return found


def _elsewhere(name: str) -> UsageError:
    return UsageError(
        f"{name!r} of single worlds cannot be reached: they live in other processes. Give "
        "make_vec what they are to be, or reset(options=…)."
    )
