"""LLaVA as transformers has it (LLaVA 1.5 and its relatives)."""

from __future__ import annotations

import torch
from torch import Tensor

from calvin_eval.vla.backbones.base import Backbone


class Llava(Backbone):
    """LLaVA: patches of one of the vision tower's layers through a projector.

    RoboVLMs' own LLaVA is LLaVA-MPT, code of the LLaVA repository, which transformers lacks.
    """

    text_at = "model.language_model"
    vision_at = "model.vision_tower"

    def encode_images(self, images: Tensor) -> Tensor:
        """Every patch becomes one token."""
        return torch.stack(list(self.model.model.get_image_features(images).pooler_output))
