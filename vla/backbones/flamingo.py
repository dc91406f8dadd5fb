"""Flamingo: OpenFlamingo on the first MPT, which RoboVLMs fine-tunes as RoboFlamingo.

Images are no tokens here: the words look at them through gated cross attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.backbones.base import Backbone, folder_values
from calvin_eval.vla.backbones.clip_vit import TOWERS, ClipModel
from calvin_eval.vla.backbones.mosaic import make_mosaic, mpt_name
from calvin_eval.vla.gated import GatedCrossAttentionBlock
from calvin_eval.vla.resampler import PerceiverResampler
from calvin_eval.vla.supported import check_crossing

EVERY: Mapping[str, int] = {"mpt_1b": 1, "mpt_1b_ift": 1}
"""`vlm.name` -> a layer of cross attention before each how many layers (`flamingo_builder`)."""

MEDIA = "<image>"
"""The word at which an image is shown."""


class FlamingoLayer(nn.Module):
    """A layer of the text model behind one of cross attention.

    Attributes:
        media: latents (B, M, N, V) that the words look at, and `places` (B, L) where they are
            shown; set for one call.
    """

    def __init__(self, gated: nn.Module | None, layer: nn.Module) -> None:
        super().__init__()
        self.gated_cross_attn_layer, self.decoder_layer = gated, layer
        self.media: Tensor | None = None
        self.places: Tensor | None = None

    def forward(self, hidden: Tensor, *arguments: Any, **keywords: Any) -> Any:
        """See transformers' `MptBlock`."""
        if self.gated_cross_attn_layer is not None and self.media is not None:
            hidden = self.gated_cross_attn_layer(hidden, self.media, self.places)
        return self.decoder_layer(hidden, *arguments, **keywords)


class Flamingo(Backbone):
    """MPT whose layers have gated cross attention to 64 latents of each camera.

    RoboVLMs reads the last of `output.hidden_states`, and the first MPT puts down the hidden
    states in front of each of its layers: what is read is what enters the last layer.
    """

    text_at = "transformer"
    vision_at = "vision_encoder"
    words_at = "transformer.wte"
    projector_at = "perceiver"
    own_positions = False
    crosses = True
    media_id = -1

    @classmethod
    def from_project(cls, folder: Path, config: Mapping[str, Any]) -> Backbone:
        """Make the model of a folder's `config.json` and a project's `vision_encoder`."""
        check_crossing(config.get("act_head") or {})
        values = folder_values(folder)
        tower = config.get("vision_encoder") or {}
        named, name = tower.get("clip_vision_encoder_path"), (config.get("vlm") or {}).get("name")
        sizes = values.get("vision_sizes") or TOWERS.get(str(named))
        if sizes is None or name not in EVERY:
            raise CheckpointError(
                f"expected vision_encoder.clip_vision_encoder_path among {', '.join(TOWERS)} and "
                f"vlm.name among {', '.join(EVERY)}, found {named!r} and {name!r}"
            )
        quick = tower.get("clip_vision_encoder_pretrained") == "openai"
        try:
            model = make_mosaic(values)
            model.vision_encoder = ClipModel(sizes, quick=quick)
            model.perceiver = PerceiverResampler(sizes["width"])
            _cross(model, sizes["width"], EVERY[str(name)])
        except CheckpointError:
            raise
        except Exception as error:  # whatever values a stranger's file has
            raise CheckpointError(
                f"{folder / 'config.json'}: no Flamingo can be made of it: {error}"
            ) from error
        return cls(model)

    def fit_tokenizer(self, tokenizer: Any) -> None:
        """Give the word embeddings the tokenizer's length, which OpenFlamingo does."""
        self.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.media_id = tokenizer.encode(MEDIA, add_special_tokens=False)[-1]

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to latents (B, 64, V)."""
        latents: Tensor = self.model.perceiver(self.model.vision_encoder.visual(images))
        return latents

    def decode_crossed(self, ids: Tensor, mask: Tensor, media: Tensor) -> Tensor:
        """Run the text model over words that look at images.

        Args:
            ids: (B, L) int64.
            mask: (B, L) bool, False at padding.
            media: latents of all cameras, (B, N, V), shown at the word `<image>`.

        Returns:
            What enters the last layer, (B, L, D).
        """
        layers: Any = self.layers
        for layer in layers:
            layer.media, layer.places = media.unsqueeze(1), ids == self.media_id
        try:
            output = self.text(
                input_ids=ids, attention_mask=mask.long(), output_hidden_states=True,
                use_cache=False,
            )  # fmt: skip
        finally:
            for layer in layers:
                layer.media = layer.places = None
        hidden: Tensor = output.hidden_states[-2]  # the last one is behind the last layer's norm
        return hidden

    def choose_trained(self, setup: Any) -> None:
        """Choose what is trained by RoboFlamingo's rules, which are its own."""
        self.model.requires_grad_(False)
        layers: Any = self.layers
        gated = [layer.gated_cross_attn_layer for layer in layers]
        count = setup.train_decoder_layers
        for part in gated if count == -1 else gated[len(gated) - count :]:
            if part is not None:
                part.requires_grad_(True)
        if setup.train_full_decoder:
            self.text.requires_grad_(True)
            self.head.requires_grad_(True)
        self.model.vision_encoder.requires_grad_(setup.train_vision)
        self.model.perceiver.requires_grad_(setup.train_resampler)
        self.words.requires_grad_(setup.train_text_embedding)

    def own_key(self, key: str) -> str:
        """See `Backbone.own_key`; OpenFlamingo names each layer up to three times."""
        if key.startswith(("act_head.", "action_token")):
            return key
        key = re.sub(r"^(backbone|model)\.", "", key)
        if key.startswith(("vision_encoder.", "perceiver.")):
            return f"backbone.{key}"
        blocks = r"transformer.blocks.\1"
        key = re.sub(r"^old_decoder_blocks\.(\d+)", rf"{blocks}.decoder_layer", key)
        key = re.sub(r"^gated_cross_attn_layers\.(\d+)", rf"{blocks}.gated_cross_attn_layer", key)
        return f"backbone.{mpt_name(key)}"


def _cross(model: Any, visual: int, every: int) -> None:
    """Put cross attention in front of every so many layers, as OpenFlamingo counts them."""
    blocks = model.transformer.blocks
    width = model.config.hidden_size
    for number, block in enumerate(blocks):
        crossed = (number + 1) % every == 0
        blocks[number] = FlamingoLayer(
            GatedCrossAttentionBlock(width, visual) if crossed else None, block
        )
