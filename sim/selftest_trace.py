"""The self-test's fixed trace: a block pushed, the button pressed, the drawer pushed.

It starts as official chain 0 does, with the LED on: there the revisions part once the button is
pressed (in scenes B, C and D). The actions are written down, not drawn: no library's random
numbers and no machine's sine enter them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError
from calvin_eval.protocol import OFFICIAL, Revision
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.packs import AssetPack

# How often each action (x50 position, x20 euler, gripper) is repeated.
_LEGS: Final = (
    (12, (0.8, 0.4, -0.45, 0.0, 0.0, 0.0, -1.0)),  # down behind the block on the table's right
    (13, (0.3, 0.2, -0.1, 0.1, -0.1, 0.2, -1.0)),  # push it, scraping the table
    (10, (-0.2, -0.3, 0.6, -0.1, 0.1, -0.2, 1.0)),
    (25, (-0.7, 0.0, 0.15, 0.0, 0.0, 0.4, 1.0)),
    (15, (-0.1, 0.2, -0.6, 0.0, 0.0, 0.0, -1.0)),  # press the button of scenes C and D
    (15, (0.0, 0.0, 0.6, 0.2, 0.0, -0.5, -1.0)),
    (25, (0.5, -0.35, 0.0, -0.1, 0.1, 0.0, -1.0)),
    (30, (0.0, 0.0, -0.6, 0.0, 0.0, 0.0, -1.0)),  # down into the open drawer
    (25, (0.0, 0.3, 0.0, 0.0, -0.1, 0.0, -1.0)),  # shove it
    (30, (0.0, 0.3, 0.6, 0.0, 0.0, 0.2, 1.0)),
)

DRAWN_STEP: Final = 10
"""Before the first contact: a machine with other last bits still has to draw the same images."""
QUICK_STEPS: Final = 25
"""After the first contacts, which make centimetres of a difference in the last bit."""
FULL_STEPS: Final = sum(count for count, _ in _LEGS)


@dataclass(frozen=True, kw_only=True)
class TraceReplay:
    """What a replay left.

    Attributes:
        hashes: of the states after the `quick` and, if it went so far, the `full` trace.
        images: `rgb_static` (200, 200, 3) uint8, `depth_static` (200, 200) float32 metres and so
            on, after `DRAWN_STEP` steps; empty without a renderer.
    """

    hashes: Mapping[str, str]
    images: Mapping[str, NDArray[Any]]


def actions(steps: int = FULL_STEPS) -> Sequence[tuple[float, ...]]:
    """The first so many relative actions."""
    return [action for count, action in _LEGS for _ in range(count)][:steps]


def replay(
    pack: AssetPack,
    scene: str,
    revision: Revision = OFFICIAL.revision,
    *,
    steps: int = FULL_STEPS,
    render: str = "none",
) -> TraceReplay:
    """Run the trace in a new world.

    Args:
        pack: the assets.
        scene: A, B, C or D.
        revision: of calvin_env.
        steps: where to stop.
        render: the renderer; see `make_env`.

    Raises:
        AssetError, RenderError: the pack cannot be loaded or nothing can be drawn here.
    """
    chain = load_chains("official")[0]
    hashes: dict[str, str] = {}
    images: dict[str, NDArray[Any]] = {}
    with make_env(scene, assets=pack, revision=revision, render=render) as env:
        env.start(chain.robot_obs, chain.scene_obs)
        for step, action in enumerate(actions(steps), start=1):
            env.advance(action)
            if step == DRAWN_STEP and env.cameras:
                obs = env.get_obs()
                images = {**obs["rgb_obs"], **obs["depth_obs"]}
            if step in (QUICK_STEPS, FULL_STEPS):
                part = "quick" if step == QUICK_STEPS else "full"
                hashes[part] = state_hash(env.get_state_obs())
    return TraceReplay(hashes=hashes, images=images)


def psnr(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) uint8 images; infinite if they are equal.

    Raises:
        RenderError: their shapes differ.
    """
    if reference.shape != image.shape:
        raise RenderError(
            f"expected an image of shape {reference.shape}; found {image.shape}. "
            "The cameras of this asset pack are not the benchmark's."
        )
    error = float(np.mean((reference.astype(np.float64) - image) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def image_hash(image: NDArray[Any]) -> str:
    """32 hex digits of the SHA-256 over an image's bytes (uint8, or little-endian float32)."""
    data = image.astype(image.dtype.newbyteorder("<")).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]
