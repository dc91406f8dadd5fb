"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calvin_eval.errors import UsageError
from calvin_eval.vla.backbones.base import Backbone


class Qwen2VL(Backbone):
    """Qwen2-VL and Qwen2.5-VL, with the image start and end tokens that RoboVLMs gives to Qwen-VL.

    The text model is called with embeddings alone, so image tokens have one position each like
    words, not a row and a column: what transformers does with embeddings whose words it cannot see.
    """

    text_at = "model.language_model"
    vision_at = "model.visual"

    def encode_images(self, images: Tensor) -> Tensor:
        """Every `spatial_merge_size` squared patches become one token.

        Raises:
            UsageError: an image side that is no multiple of a merged patch.
        """
        config = self.model.config.vision_config
        side = images.shape[-1] // config.patch_size
        if images.shape[-1] % (config.patch_size * config.spatial_merge_size):
            raise UsageError(
                f"image_size: expected a multiple of {config.patch_size} * "
                f"{config.spatial_merge_size} pixels, found {images.shape[-1]}"
            )
        patches = _patches(images, config)
        grid = torch.tensor([[1, side, side]] * len(images), device=images.device)
        tokens: Tensor = self.vision(patches, grid_thw=grid).pooler_output
        return tokens.reshape(len(images), -1, tokens.shape[-1])

    def wrap_images(self, tokens: Tensor) -> Tensor:
        """Start token, image, end token: (B, N, D) to (B, N + 2, D)."""
        config = self.model.config
        marks = torch.tensor(
            [config.vision_start_token_id, config.vision_end_token_id], device=tokens.device
        )
        start, end = self.embed(marks).expand(len(tokens), 2, -1).chunk(2, dim=1)
        return torch.cat([start, tokens, end], dim=1)


def _patches(images: Tensor, config: Any) -> Tensor:
    """Cut images (B, 3, S, S) into the rows (B * h * w, 3 * t * p * p) that the tower reads.

    A still image is a film of t equal frames. Patches that are merged later lie side by side.
    """
    merge, size = config.spatial_merge_size, config.patch_size
    rows, columns = images.shape[-2] // (merge * size), images.shape[-1] // (merge * size)
    film = images.unsqueeze(1).expand(-1, config.temporal_patch_size, -1, -1, -1)
    cut = film.reshape(*film.shape[:3], rows, merge, size, columns, merge, size)
    # (B, t, 3, rows, merge, p, columns, merge, p) to (B, rows, columns, merge, merge, 3, t, p, p)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(5).flatten(0, 4)
