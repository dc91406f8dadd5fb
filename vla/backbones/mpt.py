"""MPT, the text model of LLaVA-MPT and of OpenFlamingo's smaller models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM

from calvin_eval.errors import UsageError

MOSAIC = "mosaic_gpt"
"""`model_type` of the first MPT (1 billion parameters), which has its own code and other names."""

OLD_NAMES = (
    (re.compile(r"\.ln_(\d)\."), r".norm_\1."),
    (re.compile(r"\.mlp\.mlp_(up|down)\."), r".ffn.\1_proj."),
    (re.compile(r"\.attn\.(q|k)_ln\."), r".attn.Wqkv.\1_ln."),
    (re.compile(r"^transformer\.ln_f\."), "transformer.norm_f."),
)
"""Names of its parameters, and those of transformers' class."""


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


def make_mpt(values: Mapping[str, Any]) -> Any:
    """The language model of a `config.json`, of either kind, with random float32 weights.

    Raises:
        UsageError: a kind of MPT that is not built here.
    """
    old = values.get("model_type") == MOSAIC
    normed, limit = bool(values.get("attn_qk_ln")), values.get("attn_clip_qkv")
    if old:
        wrong = [
            f"{key}={values[key]!r}"
            for key, wanted in _ONLY.items()
            if values.get(key, wanted) not in (wanted, None)
        ]
        if wrong:
            raise UsageError(f"expected {MOSAIC} with {_ONLY}, found {', '.join(wrong)}")
        values = {**values, "attn_config": {"clip_qkv": limit}}
    shape = {key: value for key, value in values.items() if key not in _LEFT_OUT}
    made: Any = MptForCausalLM(MptConfig(**shape))
    model = made.float()
    if old and normed:
        for block in model.transformer.blocks:
            block.attn.clip_qkv = None
            block.attn.Wqkv = NormedProjection(model.config.hidden_size, limit)
    return model


_ONLY = {
    "alibi": True, "alibi_bias_max": 8, "no_bias": True, "mlp_ratio": 4, "prefix_lm": False,
    "attn_uses_sequence_id": False, "softmax_scale": None, "logit_scale": None,
}  # fmt: skip
_LEFT_OUT = (
    "model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version",
    "hidden_size", "init_config",
)  # fmt: skip


def mpt_name(name: str) -> str:
    """A parameter's name in the first MPT to that in transformers' class; others stay."""
    for old, new in OLD_NAMES:
        name = old.sub(new, name)
    return name
