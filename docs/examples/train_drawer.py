"""SAC learns to close the drawer from states: docs/learning.md#an-example.

pip install "calvin-eval[gym]" stable-baselines3
python train_drawer.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor

from calvin_eval import make_vec
from calvin_eval.rollouts.vector.sb3 import StableBaselines

REPEAT = 4  # simulator steps an action: the policy decides 7.5 times a second
EPISODE = 30  # actions


class HandAndDrawer(VecEnvWrapper):
    """Sees where the hand and the drawer are; moves the hand without turning it, closed."""

    def __init__(self, worlds: StableBaselines) -> None:
        super().__init__(
            worlds,
            observation_space=spaces.Box(-np.inf, np.inf, (4,), np.float32),
            action_space=spaces.Box(-1, 1, (3,), np.float32),
        )

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step."""
        rest = np.repeat([[0.0, 0.0, 0.0, -1.0]], len(actions), axis=0)
        self.venv.step_async(np.hstack([actions, rest]))

    def step_wait(self) -> Any:
        """Finish a step."""
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = seen(info["terminal_observation"])
        return seen(obs), rewards, dones, infos

    def reset(self) -> Any:
        """Begin new episodes."""
        return seen(self.venv.reset())


def seen(obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """(…, 4): the hand's place about the middle of the table's front, and the drawer's."""
    hand = (obs["robot_obs"][..., :3] - [0.05, -0.3, 0.5]) * 5
    return np.concatenate([hand, obs["scene_obs"][..., 1:2] * 5], axis=-1).astype(np.float32)


def main() -> None:
    """Train until 95 of 100 episodes in a row were solved, then try the policy without noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = make_vec(
        options.worlds, workers=options.workers, task="close_drawer", reward="progress",
        repeat=REPEAT, max_episode_steps=EPISODE, autoreset_mode="SameStep",
    )  # fmt: skip
    worlds = VecMonitor(HandAndDrawer(StableBaselines(tables)))
    model = SAC(
        "MlpPolicy", worlds, learning_starts=600, gradient_steps=8, batch_size=128, gamma=0.95,
        learning_rate=1e-3, ent_coef="auto_0.05", policy_kwargs={"net_arch": [64, 64]},
        device="cpu", seed=0,
    )  # fmt: skip
    start, shown = time.monotonic(), 0

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        nonlocal shown
        episodes = list(model.ep_info_buffer or [])
        solved = float(np.mean([e["r"] > 0.99 for e in episodes])) if episodes else 0.0
        if model.num_timesteps >= shown + 800:
            shown = model.num_timesteps
            seconds = time.monotonic() - start
            print(f"| {shown} | {seconds:.0f} | {len(episodes)} | {solved:.2f} |", flush=True)
        late = time.monotonic() - start > 60 * options.minutes
        return not late and not (len(episodes) == 100 and solved >= 0.95)

    print("| actions | seconds | episodes | of these solved |\n| --- | --- | --- | --- |")
    model.learn(10**6, callback=watch)
    print(f"{model.num_timesteps} actions, {time.monotonic() - start:.0f} s")

    solved, obs, done = 0, worlds.reset(), 0
    while done < 40:
        obs, _, ended, infos = worlds.step(model.predict(obs, deterministic=True)[0])
        done += int(ended.sum())
        solved += sum(bool(i["success"]) for i, end in zip(infos, ended, strict=True) if end)
    print(f"without noise: {solved} of {done} episodes solved")
    worlds.close()


if __name__ == "__main__":
    main()
