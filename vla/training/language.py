"""What is learned from images with sentences: the next word (RoboVLMs, `forward_vl_task`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.collate import spelled
from calvin_eval.vla.data.language import CAPTION, CONVERSATION, IMAGE_ID
from calvin_eval.vla.fusion import IGNORED, Fused
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.losses import Losses

NAMES = {CONVERSATION: "loss_vl_cotrain", CAPTION: "loss_cap"}
"""`data_source` of a batch -> the name of its loss, by which it is weighed."""


def is_language(batch: Mapping[str, Any]) -> bool:
    """Whether a batch holds sentences and no actions."""
    source = batch.get("data_source")  # of actions, it may be a list
    return isinstance(source, str) and source in NAMES


def language_losses(model: RoboVLM, batch: Mapping[str, Any]) -> Losses:
    """The mean cross entropy over all words that a batch's rows are to say.

    Args:
        model: continuous or discrete; its policy head is not asked.
        batch: see `LanguageCollator`.

    Returns:
        One float32 scalar, named by `NAMES`; 0 if no word is learned.

    Raises:
        UsageError: a batch of another form.
    """
    given = spelled(batch)
    fused = _fused(model, given)
    assert fused.labels is not None
    hidden, labels = model.parts.decode(fused.embeds, fused.mask)[:, :-1], fused.labels[:, 1:]
    learned = labels != IGNORED
    logits = model.parts.logits(hidden[learned])
    entropy = F.cross_entropy(logits.float(), labels[learned], reduction="sum")
    return {NAMES[given["data_source"]]: entropy / learned.sum().clamp(min=1)}


def _fused(model: RoboVLM, batch: Mapping[str, Any]) -> Fused:
    """Rows with images where `IMAGE_ID` stands, without padding in between."""
    names = ("instr_and_action_ids", "instr_and_action_labels", "instr_and_action_mask")
    found = [batch.get(name) for name in names]
    ids, labels, mask = (None if part is None else part.to(model.device) for part in found)
    if ids is None or labels is None or mask is None or ids.dim() != 2:
        raise UsageError(f"batch: expected {', '.join(names)} of shape (B, L)")
    images = _images(model, batch, len(ids))
    rows = [
        _row(model, words[seen.bool()], says[seen.bool()], image)
        for words, says, seen, image in zip(ids, labels, mask, images, strict=True)
    ]
    fused = Fused.stack([row for row, _ in rows])
    length = fused.mask.shape[1]
    padded = [F.pad(says, (0, length - len(says)), value=IGNORED) for _, says in rows]
    return Fused(fused.embeds, fused.mask, fused.present, fused.marked, torch.stack(padded))


def _images(model: RoboVLM, batch: Mapping[str, Any], count: int) -> Tensor:
    """Tokens (B, N, D) of the rows' images."""
    images = batch.get("rgb")
    if isinstance(images, (list, tuple)):
        images = torch.stack(list(images))
    if images is None or images.dim() not in (4, 5) or len(images) != count:
        raise UsageError(
            f"batch: expected {count} images under 'rgb', (B, 1, 3, S, S) or without 1"
        )
    if images.dim() == 5 and images.shape[1] != 1:
        raise UsageError(f"batch: expected one image a row, found {images.shape[1]}")
    return model.tokens(images if images.dim() == 5 else images.unsqueeze(1))


def _row(model: RoboVLM, ids: Tensor, labels: Tensor, image: Tensor) -> tuple[Fused, Tensor]:
    """One row without padding, and its labels (L,)."""
    places = (ids == IMAGE_ID).nonzero().flatten().tolist()
    if len(places) > 1:
        raise UsageError(f"batch: expected at most one image in a row, found {len(places)}")
    words = model.parts.embed(ids.masked_fill(ids == IMAGE_ID, 0))
    if places:
        at = places[0]
        words = torch.cat([words[:at], image, words[at + 1 :]])
        blank = labels.new_full((len(image),), IGNORED)
        labels = torch.cat([labels[:at], blank, labels[at + 1 :]])
    return Fused.words(words.unsqueeze(0), labels.new_ones(1, len(labels))), labels
