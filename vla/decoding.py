"""Greedy decoding with a key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from calvin_eval.vla.backbones import Backbone
from calvin_eval.vla.fusion import Fused


def greedy(parts: Backbone, prompt: Fused, count: int, allowed: range | None = None) -> Tensor:
    """The likeliest next ids, one after the other.

    Args:
        parts: the vision-language model.
        prompt: B prompts, padded on the left.
        count: how many ids to generate; nothing ends earlier.
        allowed: ids to choose from; None for the whole vocabulary.

    Returns:
        (B, count) int64.
    """
    cache = DynamicCache(config=parts.text.config)
    embeds, mask, positions = prompt.embeds, prompt.mask, prompt.positions()
    found: list[Tensor] = []
    for _ in range(count):
        logits = parts.logits(parts.decode(embeds, mask, positions, cache)[:, -1])
        if allowed is None:
            found.append(logits.argmax(-1))
        else:
            best = logits[:, allowed.start : allowed.stop].argmax(-1)
            found.append(best + allowed.start)
        embeds = parts.embed(found[-1]).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return torch.stack(found, 1)
