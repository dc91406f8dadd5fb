"""Kosmos-2: the family of RoboVLMs' published CALVIN checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from calvin_eval.vla.backbones.base import Backbone


class Kosmos2(Backbone):
    """Kosmos-2. An image becomes `latent_query_num` tokens (64), without begin and end tokens.

    Its text model multiplies all embeddings by sqrt(D) itself, and its sinusoidal positions count
    from the padding index on.
    """

    text_at = "text_model.model"
    vision_at = "vision_model"
    head_at = "text_model.lm_head"
    tokenizer_in_processor = True

    def encode_images(self, images: Tensor) -> Tensor:
        """All patches, normed and of unit length, gathered by the latent queries."""
        patches = self.model.vision_model(pixel_values=images).last_hidden_state
        patches = self.model.vision_model.model.post_layernorm(patches)
        tokens: Tensor
        tokens, _ = self.model.image_to_text_projection(nn.functional.normalize(patches, dim=-1))
        return tokens

    def decode(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
        cache: Any | None = None,
    ) -> Tensor:
        """See `Backbone.decode`."""
        if positions is not None:
            positions = (positions + self.text.embed_positions.padding_idx + 1).contiguous()
        return super().decode(embeds, mask, positions, cache)
