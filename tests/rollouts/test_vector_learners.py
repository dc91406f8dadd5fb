"""Many play tables in the hands of the libraries that learn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from requirements import need_package

from calvin_eval.errors import UsageError

need_package("gymnasium", "the extra gym")
from calvin_eval.rollouts.vector.make import make_vec  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.processes]

TABLE: Any = {"task": "close_drawer", "reward": "progress", "workers": 1}


def test_stable_baselines_learns_from_it_by_its_own_rules() -> None:
    need_package("stable_baselines3", "Stable-Baselines3")
    from stable_baselines3 import PPO

    from calvin_eval.rollouts.vector.sb3 import StableBaselines

    worlds = StableBaselines(make_vec(2, autoreset_mode="SameStep", max_episode_steps=2, **TABLE))
    worlds.seed(5)
    first = worlds.reset()
    worlds.seed(5)
    assert np.array_equal(first["scene_obs"], worlds.reset()["scene_obs"])
    still = np.zeros((2, 7), np.float32)
    worlds.step(still)
    obs, rewards, dones, infos = worlds.step(still)
    assert dones.tolist() == [True, True]
    assert rewards.dtype == np.float32
    for world, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        assert not info["success"]
        final = info["terminal_observation"]
        assert np.array_equal(final["scene_obs"].shape, (24,))
        assert not np.array_equal(final["scene_obs"], obs["scene_obs"][world])
    model = PPO("MultiInputPolicy", worlds, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
    assert model.learn(8).num_timesteps == 8
    with pytest.raises(UsageError, match="other processes"):
        worlds.env_method("shake")
    worlds.close()


def test_stable_baselines_is_told_which_mode_it_needs() -> None:
    need_package("stable_baselines3", "Stable-Baselines3")
    from calvin_eval.rollouts.vector.sb3 import StableBaselines

    tables = make_vec(1, **TABLE)
    with pytest.raises(UsageError, match="SameStep"):
        StableBaselines(tables)
    tables.close()


def test_torchrl_rolls_it_out_past_the_ends_of_episodes() -> None:
    need_package("torchrl", "TorchRL")
    from torchrl.envs import GymWrapper

    worlds = GymWrapper(make_vec(2, autoreset_mode="Disabled", max_episode_steps=2, **TABLE))
    worlds.set_seed(0)
    taken = worlds.rollout(5, break_when_any_done=False)
    assert taken.batch_size == (2, 5)
    assert taken["next", "done"].squeeze(-1)[0].tolist() == [False, True, False, True, False]
    starts = taken["scene_obs"][:, [0, 2]]  # of the first and of the second episode
    assert not bool((starts[:, 0] == starts[:, 1]).all())
    worlds.close()
