"""CLIP's vision transformer under open_clip's parameter names, as OpenFlamingo has it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

TOWERS: Mapping[str, Mapping[str, int]] = {
    "ViT-L-14": {"width": 1024, "layers": 24, "heads": 16, "patch": 14, "image": 224, "out": 768},
    "ViT-B-16": {"width": 768, "layers": 12, "heads": 12, "patch": 16, "image": 224, "out": 512},
    "ViT-B-32": {"width": 768, "layers": 12, "heads": 12, "patch": 32, "image": 224, "out": 512},
}
"""open_clip's names of towers, and their sizes: its `model_configs`."""


class QuickGELU(nn.Module):
    """The activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Values times the sigmoid of 1.702 times themselves."""
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU() if quick else nn.GELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        found: Tensor = x + self.mlp(self.ln_2(x))
        return found


class _Layers(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads, quick) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ClipTower(nn.Module):
    """Images to patches.

    Args:
        sizes: an entry of `TOWERS`.
        quick: whether the activation is that of OpenAI's weights.
    """

    def __init__(self, sizes: Mapping[str, int], *, quick: bool) -> None:
        super().__init__()
        width, patch = sizes["width"], sizes["patch"]
        count = (sizes["image"] // patch) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(count, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Layers(width, sizes["layers"], sizes["heads"], quick)
        self.proj = nn.Parameter(torch.randn(width, sizes["out"]) * width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to patches (B, N, V) of the last layer, before the last norm.

        They are what open_clip 2.20, which RoboVLMs pins, returns beside the pooled feature with
        `output_tokens`: its norm behind the layers is of the pooled feature alone.
        """
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([first, patches], 1) + self.positional_embedding.to(patches.dtype)
        found: Tensor = self.transformer(self.ln_pre(x))
        return found[:, 1:]


class ClipModel(nn.Module):
    """The tower one level deeper, as open_clip's whole model has it; without its text tower."""

    def __init__(self, sizes: Mapping[str, int], *, quick: bool) -> None:
        super().__init__()
        self.visual = ClipTower(sizes, quick=quick)
