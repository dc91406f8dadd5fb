"""From camera images and instructions to what a model reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer

from calvin_eval.errors import CheckpointError
from calvin_eval.vla import prompts
from calvin_eval.vla.backbones import Backbone
from calvin_eval.vla.compat import Compat

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Preprocess:
    """Images and texts of one checkpoint (RoboVLMs, data_utils and base_backbone).

    The configuration's `image_mean`, `image_std` and `tokenizer.max_text_len` are read by nobody,
    so not here either.

    Args:
        config: the project configuration.
        folder: of the vision-language model: tokenizer and image processor.
        backbone: says how the family wants its images.
        compat: whose `prompt_steps` the questions of a discrete model follow.

    Attributes:
        tokenizer: of the language model, with the tokens that the checkpoint added.
        size: side of the images that go into the network, in pixels.
    """

    def __init__(
        self, config: Mapping[str, Any], folder: Path, backbone: Backbone, compat: Compat
    ) -> None:
        self.tokenizer = load_tokenizer(folder, backbone, config.get("tokenizer") or {})
        self._form = prompts.text_form(config["model"])
        self._chat = prompts.chat_name(config)
        self._steps = prompts.steps_named(int(config["fwd_pred_next_n"]), compat.prompt_steps)
        self.size = int(config.get("image_size", 224))
        self._mean, self._std = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
        self._resample = Image.Resampling.BICUBIC
        if not backbone.clip_images:
            self._use_image_processor(folder, backbone)

    def _use_image_processor(self, folder: Path, backbone: Backbone) -> None:
        """Take size and normalisation from the image processor, as the vision tower wants them."""
        found = image_processor(folder)
        self._mean = np.array(found.get("image_mean", (0.5, 0.5, 0.5)), np.float32)
        self._std = np.array(found.get("image_std", (0.5, 0.5, 0.5)), np.float32)
        self._resample = Image.Resampling(found.get("resample", Image.Resampling.BICUBIC))
        self.size = int(backbone.model.config.vision_config.image_size)

    def images(self, rgb: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Camera images to the network's.

        Resized to a square whatever their shape, without cropping; then [0, 1], then normalised.

        Args:
            rgb: (H, W, 3) uint8 each; sizes may differ.

        Returns:
            (B, 3, S, S) float32.
        """
        return self.normalize(self.resize(rgb))

    def resize(self, rgb: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Camera images (H, W, 3) uint8 to squares (B, 3, S, S) uint8."""
        return torch.stack([self._resized(array) for array in rgb])

    def normalize(self, images: Tensor) -> Tensor:
        """Squares (..., 3, S, S) uint8 to what the network sees: the same shape, float32."""
        made = images.to(torch.float32)
        mean, std = (torch.from_numpy(part).view(3, 1, 1) for part in (self._mean, self._std))
        return made.div_(255).sub_(mean).div_(std)

    def _resized(self, array: NDArray[np.uint8]) -> Tensor:
        picture = Image.fromarray(array).convert("RGB")
        resized = np.asarray(picture.resize((self.size, self.size), self._resample))
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def text(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Instructions as a continuous model reads them.

        Returns:
            Ids (B, L) int64, padded on the right, and their mask (B, L) bool.
        """
        form, eos = self._form, self.tokenizer.eos_token
        texts = [form.template.format(s=text.strip(), eos=eos) for text in instructions]
        rows = self.tokenizer(
            texts,
            add_special_tokens=form.add_special_tokens,
            truncation=True,
            max_length=form.max_length,
        ).input_ids
        return pad(rows, self.tokenizer.pad_token_id)

    def prompt(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Instructions as a discrete model reads them: a question in its chat format.

        The last id is taken off if the tokenizer has an end token, whether or not it is one.

        Returns:
            Ids (B, L) int64, padded on the right, and their mask (B, L) bool.
        """
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        asked = [prompts.question(text, self._steps) for text in instructions]
        texts = [prompts.chat(self._chat, text, bos, eos) for text in asked]
        rows = self.tokenizer(texts, add_special_tokens=True).input_ids
        if eos is not None:
            rows = [row[:-1] for row in rows]
        return pad(rows, self.tokenizer.pad_token_id)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Lists of ids to ids (B, L) int64, padded on the right, and a mask (B, L) bool."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids, mask


def load_tokenizer(folder: Path, backbone: Backbone, options: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder, with the tokens that a checkpoint's configuration adds.

    Args:
        folder: of the vision-language model.
        backbone: says whether the family's processor adds tokens of its own.
        options: `tokenizer` of the configuration.

    Raises:
        CheckpointError: no tokenizer there.
    """
    kind = AutoProcessor if backbone.tokenizer_in_processor else AutoTokenizer
    try:
        loaded = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: expected the model's tokenizer: {error}") from error
    tokenizer = loaded.tokenizer if backbone.tokenizer_in_processor else loaded
    added = options.get("additional_special_tokens")
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    return tokenizer


def image_processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings in a folder; empty if there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            settings: dict[str, Any] = found.get("image_processor", found)
            return settings
    return {}
