"""The same states drawn by any renderer; as a program it writes them to a file.

    python drawn_frames.py ASSETS SCENE RENDERER STATES FILE

Bullet's EGL plugin may abort its process and draws one world in each, so it gets one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim import load_chains, make_env

_CHAIN_STEP = 37  # the chains that are drawn lie apart, for different start states
_ACTIONS = 16

Frames = dict[str, NDArray[Any]]


def frames(assets: str, scene: str, renderer: Any, states: int) -> Frames:
    """Images (N, H, W, 3) and depths (N, H, W) of both cameras after smooth random actions."""
    rng = np.random.default_rng(ord(scene))
    found: dict[str, list[Any]] = {}
    with make_env(scene, assets=assets, render=renderer) as env:
        chains = load_chains("official")
        for index in range(states):
            chain = chains[index * _CHAIN_STEP % len(chains)]
            env.start(chain.robot_obs, chain.scene_obs)
            velocity = np.zeros(6)
            for _ in range(_ACTIONS):
                velocity = 0.9 * velocity + 0.2 * rng.normal(size=6)
                env.advance(np.append(np.clip(velocity, -1, 1), 1 if index % 2 else -1))
            obs = env.get_obs()
            for name, image in {**obs["rgb_obs"], **obs["depth_obs"]}.items():
                found.setdefault(name, []).append(image)
    return {name: np.array(images) for name, images in found.items()}


def frames_of_a_child(path: Path, assets: str, scene: str, renderer: str, states: int) -> Frames:
    """`frames`, drawn in a process of their own."""
    command = [sys.executable, __file__, assets, scene, renderer, str(states), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(path) as file:
        return dict(file)


def differences(mine: Frames, theirs: Frames, camera: str) -> dict[str, float]:
    """How far two sets of images of a camera are apart.

    Returns:
        psnr: of all images together, in dB; worst: of the image that differs most; off: share of
        pixels with a channel that differs by more than 2 of 255; depth: share of pixels with the
        same depth.
    """
    error = mine[f"rgb_{camera}"].astype(float) - theirs[f"rgb_{camera}"]
    squares = (error**2).reshape(len(error), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        pooled, worst = 10 * np.log10(255**2 / np.array([squares.mean(), squares.max()]))
    return {
        "psnr": float(pooled),
        "worst": float(worst),
        "off": float((np.abs(error) > 2).any(axis=-1).mean()),
        "depth": float((mine[f"depth_{camera}"] == theirs[f"depth_{camera}"]).mean()),
    }


if __name__ == "__main__":
    given_assets, given_scene, given_renderer, given_states, file_name = sys.argv[1:]
    np.savez(file_name, **frames(given_assets, given_scene, given_renderer, int(given_states)))
