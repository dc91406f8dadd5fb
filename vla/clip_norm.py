"""The loss of `use_clip_norm`: features should tell CLIP's view of the instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from calvin_eval.errors import CheckpointError, UsageError

CLIP = "clip_text"
"""Key of the configuration: folder of CLIP's text model."""


class ClipNormHead(nn.Module):
    """Compares features with CLIP's embedding of the sentence (RoboVLMs, clip_text_encoder).

    RoboVLMs downloads OpenAI's ViT-L/14 and trains its text model with the rest; here it lies in a
    folder, and `train_setup.freeze_clip_text` leaves it as it is.

    Args:
        width: D, of the features.
        clip: CLIP's text model.
        tokenizer: of it.

    Attributes:
        model: CLIP's text model.
        lang_fc: features to its space.
    """

    def __init__(self, width: int, clip: CLIPTextModelWithProjection, tokenizer: Any) -> None:
        super().__init__()
        config: Any = clip.config
        self.model = clip
        self.lang_fc = nn.Linear(width, int(config.projection_dim))
        self._tokenizer = tokenizer
        self._length = int(config.max_position_embeddings)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], width: int) -> ClipNormHead | None:
        """The head that a configuration's training asks for.

        None without `use_clip_norm`, and for a discrete model, as in RoboVLMs.

        Args:
            config: the project configuration; `clip_text` names the folder of CLIP's text model.
            width: D, of the features.

        Raises:
            UsageError: no folder is named.
            CheckpointError: the folder is not there, or lacks weights of the text model.
        """
        if not config.get("use_clip_norm") or config["act_head"]["action_space"] == "discrete":
            return None
        if not config.get(CLIP):
            raise UsageError(
                f"use_clip_norm=true: expected {CLIP}=FOLDER, CLIP's text model as transformers "
                "saves it (the original takes openai/clip-vit-large-patch14); nothing is downloaded"
            )
        folder = Path(str(config[CLIP]))
        made = cls(width, *_read(folder))
        if (config.get("train_setup") or {}).get("freeze_clip_text"):
            made.model.requires_grad_(False)
        return made

    def forward(self, features: Tensor, sentences: Sequence[str]) -> Tensor:
        """Smooth L1 between pooled features and the sentence's normalised embedding.

        Args:
            features: (B, T, K, D); the largest of K counts, number by number.
            sentences: B instructions.

        Returns:
            A scalar, the mean over B, T and CLIP's numbers.
        """
        said = self.lang_fc(features.amax(2))
        read = self._tokenizer(
            list(sentences), padding=True, truncation=True, max_length=self._length,
            return_tensors="pt",
        ).to(said.device)  # fmt: skip
        embeds = self.model(read.input_ids, read.attention_mask).text_embeds
        wanted = F.normalize(embeds, dim=-1).unsqueeze(1).expand_as(said)
        return F.smooth_l1_loss(said.float(), wanted.float())


def _read(folder: Path) -> tuple[CLIPTextModelWithProjection, Any]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{CLIP}: expected the folder of CLIP's text model at {folder}, with config.json, "
            "tokenizer and weights; nothing is downloaded"
        )
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    read: Any = CLIPTextModelWithProjection.from_pretrained
    try:
        model, report = read(folder, output_loading_info=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:  # whatever a stranger's folder holds
        raise CheckpointError(f"{folder}: expected CLIP's text model: {error}") from error
    if report["missing_keys"]:
        lost = sorted(report["missing_keys"])
        raise CheckpointError(
            f"{folder} lacks {len(lost)} weights of CLIP's text model, such as {lost[0]}"
        )
    return model, tokenizer
