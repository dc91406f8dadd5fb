"""Tiny LeRobot policies with random weights, saved as LeRobot saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import (
    get_policy_class,
    make_policy_config,
    make_pre_post_processors,
)

STATIC, WRIST, STATE = (
    "observation.images.static", "observation.images.wrist", "observation.state",
)  # fmt: skip
SIDE = 32

ACT = {
    "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1, "latent_dim": 4,
    "n_vae_encoder_layers": 1, "chunk_size": 6, "n_action_steps": 4,
}  # fmt: skip
DIFFUSION = {
    "down_dims": (16, 32), "n_groups": 4, "diffusion_step_embed_dim": 8, "horizon": 8,
    "n_obs_steps": 2, "n_action_steps": 3, "spatial_softmax_num_keypoints": 4,
    "num_inference_steps": 2,
}  # fmt: skip


def save(
    folder: Path, kind: str, *, cameras: tuple[str, ...] = (STATIC, WRIST), state: int = 8,
    action: int = 7, **settings: Any,
) -> Path:  # fmt: skip
    """Build a policy of random weights and statistics, and save it with its processors."""
    torch.manual_seed(0)
    features = {name: PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for name in cameras}
    features[STATE] = PolicyFeature(FeatureType.STATE, (state,))
    config = make_policy_config(
        kind,
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        device="cpu",
        push_to_hub=False,
        pretrained_backbone_weights=None,
        **{**(ACT if kind == "act" else DIFFUSION), **settings},
    )
    policy = get_policy_class(kind)(config)
    processors = make_pre_post_processors(config, dataset_stats=_statistics(cameras, state, action))
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder


def _statistics(cameras: tuple[str, ...], state: int, action: int) -> dict[str, Any]:
    draw = np.random.default_rng(1)

    def numbers(*shape: int) -> dict[str, Any]:
        low, spread = draw.normal(size=shape), draw.uniform(0.5, 2, size=shape)
        values = {"mean": low, "std": spread, "min": low - spread, "max": low + spread}
        return {name: torch.from_numpy(v).float() for name, v in values.items()}

    images = {name: numbers(3, 1, 1) for name in cameras}
    return {**images, STATE: numbers(state), "action": numbers(action)}
