"""A tiny text model of CLIP's own class, saved as a folder."""

from __future__ import annotations

from pathlib import Path

import tiny_vlm
import torch
from tokenizers import processors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

WIDTH = 12
"""Numbers of a sentence's embedding."""


def save_clip(folder: Path) -> Path:
    """Write configuration, tokenizer and weights, which follow from their names alone."""
    texts = tiny_vlm.tokenizer("smolvlm")
    ends = [("<|im_start|>", texts.bos_token_id), ("<end>", texts.eos_token_id)]
    texts.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <end>", special_tokens=ends
    )
    config = CLIPTextConfig(
        vocab_size=1000, hidden_size=16, intermediate_size=32, projection_dim=WIDTH,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=40,
        eos_token_id=texts.eos_token_id, bos_token_id=texts.bos_token_id,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config)
    tiny_vlm.set_weights(model)
    with torch.no_grad():
        model.text_projection.weight.mul_(4)
    model.save_pretrained(folder)
    texts.save_pretrained(folder)
    return folder
