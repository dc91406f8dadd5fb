"""The first MPT (1 billion parameters), from the layers of transformers' MPT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM

from calvin_eval.errors import CheckpointError

MODEL_TYPE = "mosaic_gpt"

_OLD_NAMES = (
    (re.compile(r"\.ln_(\d)\."), r".norm_\1."),
    (re.compile(r"\.mlp\.mlp_(up|down)\."), r".ffn.\1_proj."),
    (re.compile(r"\.attn\.(q|k)_ln\."), r".attn.Wqkv.\1_ln."),
    (re.compile(r"^transformer\.ln_f\."), "transformer.norm_f."),
)
"""Names of its parameters, and those of transformers' class."""

_ONLY = {
    "alibi": True, "alibi_bias_max": 8, "no_bias": True, "mlp_ratio": 4, "prefix_lm": False,
    "attn_uses_sequence_id": False, "softmax_scale": None, "logit_scale": None,
}  # fmt: skip
"""What is built; the two published folders say nothing else."""


class NormedProjection(nn.Linear):
    """Queries, keys and values, of which the first two are normed over all heads together."""

    def __init__(self, width: int, limit: float | None) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.limit = limit
        self.q_ln = nn.LayerNorm(width, bias=False)
        self.k_ln = nn.LayerNorm(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., 3 D)."""
        found = super().forward(x)
        if self.limit:
            found = found.clamp(-self.limit, self.limit)
        queries, keys, values = found.chunk(3, dim=-1)
        return torch.cat([self.q_ln(queries), self.k_ln(keys), values], dim=-1)


def make_mosaic(values: Mapping[str, Any]) -> Any:
    """The language model of a `config.json`, with random float32 weights.

    Raises:
        CheckpointError: a kind of it that is not built here.
    """
    wrong = [
        f"{key}={values[key]!r}"
        for key, wanted in _ONLY.items()
        if values.get(key, wanted) not in (wanted, None)
    ]
    if wrong:
        raise CheckpointError(f"expected {MODEL_TYPE} with {_ONLY}, found {', '.join(wrong)}")
    limit = values.get("attn_clip_qkv")
    names = ("d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len")
    shape: dict[str, Any] = {name: int(values[name]) for name in names}
    made: Any = MptForCausalLM(MptConfig(**shape, attn_config={"clip_qkv": limit}))
    model = made.float()
    if values.get("attn_qk_ln"):
        for block in model.transformer.blocks:
            block.attn.clip_qkv = None
            block.attn.Wqkv = NormedProjection(model.config.hidden_size, limit)
    return model


def mpt_name(name: str) -> str:
    """A parameter's name in the first MPT to that in transformers' class; others stay."""
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name
