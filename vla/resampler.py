"""Perceiver resampler: any number of image tokens to few, as in Flamingo.

Parameter names are those of flamingo-pytorch, which RoboVLMs and OpenFlamingo took over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENTS, DEPTH, HEADS, HEAD_DIM = 64, 6, 8, 64
"""RoboVLMs' own: what a configuration says under `vision_resampler` is read by nobody."""


def feed_forward(width: int) -> nn.Sequential:
    """Norm, linear layer to four times the width, GELU, linear layer back; without biases."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `HEADS` heads: (B, M, H) over (B, N, H) to (B, M, H)."""
    q, k, v = (
        part.reshape(*part.shape[:-1], HEADS, HEAD_DIM).transpose(1, 2)
        for part in (queries, keys, values)
    )
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


class PerceiverAttention(nn.Module):
    """Latents look at image tokens and at each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_DIM
        self.norm_media, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Image tokens (B, N, D) and latents (B, M, D) to (B, M, D)."""
        latents = self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat([self.norm_media(tokens), latents], 1)).chunk(2, -1)
        found: Tensor = self.to_out(attend(self.to_q(latents), keys, values))
        return found


class PerceiverResampler(nn.Module):
    """Any number of image tokens to 64.

    Args:
        width: D, of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(LATENTS, width))
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width), feed_forward(width)]) for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of one image each, (B, N, D), to (B, 64, D)."""
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            parts: Any = layer  # attention and what is behind it
            latents = latents + parts[0](tokens, latents)
            latents = latents + parts[1](latents)
        found: Tensor = self.norm(latents)
        return found
