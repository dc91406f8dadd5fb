"""PaliGemma, called as RoboVLMs calls it: text model alone, causal, positions from 0."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from calvin_eval.vla.backbones.base import Backbone


class PaliGemma(Backbone):
    """PaliGemma 1 and 2: SigLIP tokens, one linear layer, Gemma.

    Projected images are divided by the square root of the configuration's `hidden_size`, which
    the text model's scaling undoes.
    """

    text_at = "model.language_model"
    vision_at = "model.vision_tower"
    clip_images = False
    tokenizer_in_processor = True

    @classmethod
    def adjust(cls, config: PreTrainedConfig) -> None:
        """Keep the text model causal: transformers 5 makes it look both ways unless asked."""
        text: Any = config.get_text_config()
        text.use_bidirectional_attention = False

    def encode_images(self, images: Tensor) -> Tensor:
        """Every patch becomes one token."""
        patches = self.vision(images).last_hidden_state
        tokens: Tensor = self.model.model.multi_modal_projector(patches)
        return tokens / math.sqrt(self.model.config.hidden_size)
