"""LLaVA-MPT: the LLaVA repository's model on MPT, which RoboVLMs fine-tunes as RoboLLaVA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, MptConfig, MptForCausalLM

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.backbones.base import Backbone, folder_values

TOWERS: Mapping[str, Mapping[str, int]] = {
    "openai/clip-vit-large-patch14": {"image_size": 224},
    "openai/clip-vit-large-patch14-336": {"image_size": 336},
}
"""Vision towers that `mm_vision_tower` may name without a folder of that name; all are ViT-L/14."""

LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip


_NOT_OF_ITS_SHAPE = (
    "model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version",
    "hidden_size", "init_config",
)  # fmt: skip


class Tower(nn.Module):
    """A CLIP tower one level deeper, as LLaVA's own class has it."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_tower = CLIPVisionModel(config)


class LlavaMpt(Backbone):
    """MPT with patches of one of CLIP's layers through a projector.

    The LLaVA repository computes its tower without gradients, so that `train_vision` trains
    nothing of it; so here.
    """

    text_at = "transformer"
    vision_at = "transformer.vision_tower"
    words_at = "transformer.wte"
    projector_at = "transformer.mm_projector"
    vision_is_fixed = True
    own_positions = False

    @classmethod
    def from_folder(cls, folder: Path) -> Backbone:
        """Make the model of a folder's `config.json`, with random float32 weights."""
        values = folder_values(folder)
        try:
            model = _language_model(values)
            config = _tower_config(folder, str(values["mm_vision_tower"]))
            model.transformer.vision_tower = Tower(config)
            kind = str(values.get("mm_projector_type") or "linear")
            width = int(values.get("mm_hidden_size") or config.hidden_size)
            model.transformer.mm_projector = _projector(kind, width, model.config.hidden_size)
            made = cls(model)
            made.layer = int(values.get("mm_vision_select_layer", -2))
            made.whole = values.get("mm_vision_select_feature") == "cls_patch"
            return made
        except CheckpointError:
            raise
        except Exception as error:  # whatever values a stranger's file has
            raise CheckpointError(
                f"{folder / 'config.json'}: no LLaVA-MPT can be made of it: {error}"
            ) from error

    layer: int
    whole: bool

    def encode_images(self, images: Tensor) -> Tensor:
        """Every patch of the chosen layer becomes one token."""
        with torch.no_grad():
            tower: Any = self.model.transformer.vision_tower.vision_tower
            layers = tower(images, output_hidden_states=True).hidden_states
            patches = layers[self.layer] if self.whole else layers[self.layer][:, 1:]
        tokens: Tensor = self.model.transformer.mm_projector(patches)
        return tokens

    def rename_old_key(self, key: str) -> str:
        """See `Backbone.rename_old_key`; CLIP's tower lost a level in transformers 5."""
        return key.replace(
            ".vision_tower.vision_tower.vision_model.", ".vision_tower.vision_tower."
        )


def _language_model(values: Mapping[str, Any]) -> Any:
    """The text model of a `config.json`, with random float32 weights."""
    shape = {key: value for key, value in values.items() if key not in _NOT_OF_ITS_SHAPE}
    made: Any = MptForCausalLM(MptConfig(**shape))
    return made.float()


def _tower_config(folder: Path, name: str) -> CLIPVisionConfig:
    """The tower's shape: from a folder of that name, or known."""
    for place in (folder / name, folder.parent / Path(name).name, Path(name)):
        if (place / "config.json").is_file():
            found: CLIPVisionConfig = CLIPVisionConfig.from_pretrained(place, local_files_only=True)
            return found
    if name not in TOWERS:
        raise CheckpointError(
            f"{folder / 'config.json'}: mm_vision_tower names {name!r}: expected a folder of that "
            f"name in or beside {folder}, or one of {', '.join(TOWERS)}"
        )
    values: dict[str, Any] = {**LARGE, **TOWERS[name]}
    return CLIPVisionConfig(**values)


def _projector(kind: str, width: int, text: int) -> nn.Module:
    """What `mm_projector_type` names: "linear", "mlp2x_gelu" or "identity"."""
    if kind == "identity":
        return nn.Identity()
    depth = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if kind != "linear" and depth is None:
        raise CheckpointError(
            f"mm_projector_type: expected linear, mlpNx_gelu or identity, found {kind!r}"
        )
    first = nn.Linear(width, text)
    if depth is None:
        return first
    more = [part for _ in range(1, int(depth[1])) for part in (nn.GELU(), nn.Linear(text, text))]
    return nn.Sequential(first, *more)
