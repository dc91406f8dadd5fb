"""Gated cross attention: how Flamingo brings images into a language model.

Parameter names are those of flamingo-pytorch, which OpenFlamingo took over.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calvin_eval.vla.resampler import HEAD_DIM, HEADS, attend, feed_forward


class MaskedCrossAttention(nn.Module):
    """Words look at the images that were shown last before them.

    Args:
        width: of the words.
        visual: of the images' latents.
    """

    def __init__(self, width: int, visual: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_DIM
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(visual, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, words: Tensor, media: Tensor, places: Tensor) -> Tensor:
        """Words that look at images.

        Args:
            words: hidden states (B, L, D).
            media: latents of each image, (B, M, N, V).
            places: (B, L) bool, True where an image is shown; words before the first see none.

        Returns:
            (B, L, D).
        """
        keys, values = self.to_kv(media.flatten(1, 2)).chunk(2, -1)
        shown = places.cumsum(1).unsqueeze(-1)
        number = torch.arange(1, media.shape[1] + 1, device=words.device)
        seen = shown == number.repeat_interleave(media.shape[2])
        blind = ~seen.any(-1, keepdim=True)
        # What sees nothing is taken out below: no softmax can be of nothing.
        mask = (seen | blind).unsqueeze(1)
        found = attend(self.to_q(self.norm(words)), keys, values, mask)
        result: Tensor = self.to_out(found.masked_fill(blind, 0.0))
        return result


class GatedCrossAttentionBlock(nn.Module):
    """Cross attention and a feed-forward layer, each behind a gate that starts closed."""

    def __init__(self, width: int, visual: int) -> None:
        super().__init__()
        self.attn = MaskedCrossAttention(width, visual)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(width)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, words: Tensor, media: Tensor, places: Tensor) -> Tensor:
        """See `MaskedCrossAttention.forward`."""
        words = words + self.attn(words, media, places) * self.attn_gate.tanh()
        found: Tensor = words + self.ff(words) * self.ff_gate.tanh()
        return found
