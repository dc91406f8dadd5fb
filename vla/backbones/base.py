"""What the vision-language-action model needs of a vision-language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from calvin_eval.errors import CheckpointError
from calvin_eval.foreign.documents import parse_json


class Backbone(ABC):
    """One model, and where its parts are.

    Embeddings pass through here as RoboVLMs has them: words as they lie in the embedding matrix,
    images as the projector gives them. What the text model multiplies its words with is applied
    in `decode`, to words, images and action tokens alike. transformers 4 did that inside the text
    model; transformers 5 does it in some families' embedding layer, where only words pass.

    Not an `nn.Module`: the model keeps its own parameter names.

    Attributes:
        model: the whole model, as transformers makes it.
        text_at: where in the model its text model lies, without the output layer.
        vision_at: where its vision tower lies.
        head_at: where its output layer lies.
        words_at: where its word embeddings lie; in the text model's `embed_tokens` if empty.
        projector_at: where its projector lies, if that is inside the text model.
        vision_is_fixed: whether the vision tower never learns, whatever `train_vision` says.
        own_positions: whether the text model takes positions; if not, it has relative ones.
        clip_images: whether RoboVLMs feeds the family images with CLIP's mean and deviation;
            otherwise with those of the model's own image processor.
        tokenizer_in_processor: whether the processor adds tokens to the tokenizer of the folder.
        crosses: whether words look at images by cross attention, so that images are no tokens;
            it then has `decode_crossed`.
    """

    text_at: ClassVar[str]
    vision_at: ClassVar[str]
    head_at: ClassVar[str] = "lm_head"
    words_at: ClassVar[str] = ""
    projector_at: ClassVar[str] = ""
    vision_is_fixed: ClassVar[bool] = False
    own_positions: ClassVar[bool] = True
    clip_images: ClassVar[bool] = True
    tokenizer_in_processor: ClassVar[bool] = False
    crosses: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        transforms = get_model_conversion_mapping(model)
        self._renamings = [t for t in transforms if isinstance(t, WeightRenaming)]

    @classmethod
    def from_folder(cls, folder: Path) -> Backbone:
        """Make the model of a folder's `config.json`, with random float32 weights."""
        made: Any = AutoModelForImageTextToText
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            cls.adjust(config)
            return cls(made.from_config(config, dtype=torch.float32))
        except Exception as error:  # whatever values a stranger's file has
            raise CheckpointError(
                f"{folder / 'config.json'}: transformers makes no model of it: {error}"
            ) from error

    @classmethod
    def from_project(cls, folder: Path, config: Mapping[str, Any]) -> Backbone:
        """Make the model for a project; most families need nothing but the folder.

        Args:
            folder: of the model.
            config: the project configuration, parents merged.
        """
        return cls.from_folder(folder)

    def fit_tokenizer(self, tokenizer: Any) -> None:  # noqa: B027 - a default
        """Follow the project's tokenizer, with its added words; most families: nothing."""

    def decode_crossed(self, ids: Tensor, mask: Tensor, media: Tensor) -> Tensor:
        """Word ids (B, L) that look at images' latents (B, N, V) to hidden states (B, L, D)."""
        raise NotImplementedError(f"{type(self).__name__} puts images among its words")

    def choose_trained(self, setup: Any) -> None:
        """Choose what is trained, where the family has rules of its own (`crosses`).

        Args:
            setup: a `calvin_eval.vla.training.setup.TrainSetup`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rules of its own")

    @classmethod
    def adjust(cls, config: PreTrainedConfig) -> None:
        """Change what newer releases of transformers set differently; most families: nothing."""
        return

    @property
    def text(self) -> Any:
        """The text model without its output layer: embeddings to normalised hidden states."""
        return attrgetter(self.text_at)(self.model)

    @property
    def vision(self) -> nn.Module:
        """The vision tower."""
        vision: nn.Module = attrgetter(self.vision_at)(self.model)
        return vision

    @property
    def head(self) -> nn.Module:
        """The output layer, hidden states to logits."""
        head: nn.Module = attrgetter(self.head_at)(self.model)
        return head

    @property
    def words(self) -> nn.Embedding:
        """The embedding matrix of the words."""
        place = self.words_at or f"{self.text_at}.embed_tokens"
        words: nn.Embedding = attrgetter(place)(self.model)
        return words

    @property
    def layers(self) -> nn.ModuleList:
        """The text model's layers."""
        text = self.text
        layers: nn.ModuleList = text.layers if hasattr(text, "layers") else text.blocks
        return layers

    @property
    def hidden_size(self) -> int:
        """D, the width of the text model."""
        return self.words.embedding_dim

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to tokens (B, N, D), in the text model's space."""

    def wrap_images(self, tokens: Tensor) -> Tensor:
        """Put the tokens that mark an image's start and end around (B, N, D), if there are any."""
        return tokens

    def embed(self, ids: Tensor) -> Tensor:
        """Word ids (...) to embeddings (..., D), unscaled."""
        return nn.functional.embedding(ids, self.words.weight)

    def decode(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
        cache: Any | None = None,
    ) -> Tensor:
        """Run the text model with causal attention.

        Args:
            embeds: (B, L, D), unscaled.
            mask: (B, past + L) bool, False where nobody may look.
            positions: (B, L) int64 counted from 0; if None, every row counts its columns.
            cache: a transformers cache, which this call extends; None for none.

        Returns:
            Last hidden states after the final norm, (B, L, D).
        """
        scale = getattr(self.words, "scalar_embed_scale", None)
        if scale is not None:
            embeds = embeds * torch.tensor(scale, dtype=embeds.dtype, device=embeds.device)
        output = self.text(
            inputs_embeds=embeds,
            attention_mask=mask.to(torch.long),
            past_key_values=cache,
            use_cache=cache is not None,
            **({"position_ids": positions} if self.own_positions else {}),
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to logits over the vocabulary (..., V)."""
        logits: Tensor = self.head(hidden)
        return logits

    def own_key(self, key: str) -> str:
        """A checkpoint's name of a parameter, of head and backbone, to its name in `RoboVLM`.

        Args:
            key: without the leading `model.` of a checkpoint's names.
        """
        prefix, dot, rest = key.partition(".")
        if prefix != "backbone" or not dot:
            return key
        return f"backbone.{self.rename_old_key(rest)}"

    def rename_old_key(self, key: str) -> str:
        """A parameter's name in transformers 4 to its name here; today's names stay.

        transformers' own conversion table decides.
        """
        renamed, _ = rename_source_key(key, self._renamings, [])
        return renamed


def folder_values(folder: Path) -> dict[str, Any]:
    """What a folder's `config.json` says.

    Raises:
        CheckpointError: no readable `config.json`.
    """
    path = folder / "config.json"
    try:
        values = parse_json(path.read_bytes(), strict=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the config.json of a vision-language model: {error}"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path}: expected the config.json of a vision-language model, found "
            f"{type(values).__name__}"
        )
    return values
