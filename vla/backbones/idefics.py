"""Idefics3 and SmolVLM."""

from __future__ import annotations

import torch
from torch import Tensor

from calvin_eval.vla.backbones.base import Backbone


class Idefics3(Backbone):
    """Idefics3 and SmolVLM, one whole image at a time, without cutting it into tiles."""

    text_at = "model.text_model"
    vision_at = "model.vision_model"
    clip_images = False

    def encode_images(self, images: Tensor) -> Tensor:
        """Every `scale_factor` squared patches become one token."""
        size = self.model.config.vision_config.patch_size
        rows, columns = images.shape[-2] // size, images.shape[-1] // size
        whole = torch.ones(len(images), rows, columns, dtype=torch.bool, device=images.device)
        patches = self.vision(pixel_values=images, patch_attention_mask=whole).last_hidden_state
        tokens: Tensor = self.model.model.connector(patches)
        return tokens
