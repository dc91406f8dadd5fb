"""LLaVA as transformers has it (LLaVA 1.5 and its relatives)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from calvin_eval.vla.backbones.base import Backbone


class Llava(Backbone):
    """LLaVA: patches of one of the vision tower's layers through a projector.

    RoboVLMs' own LLaVA is LLaVA-MPT, code of the LLaVA repository, which transformers lacks.
    """

    @property
    def text(self) -> Any:
        """The language model."""
        return self.model.model.language_model

    @property
    def vision(self) -> nn.Module:
        """The vision tower, CLIP as a rule."""
        vision: nn.Module = self.model.model.vision_tower
        return vision

    def encode_images(self, images: Tensor) -> Tensor:
        """Every patch becomes one token."""
        return torch.stack(list(self.model.model.get_image_features(images).pooler_output))
