"""One training step's forward pass: from a batch to losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from calvin_eval.errors import UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.extra_tokens import Shown
from calvin_eval.vla.fusion import IGNORED, Fused
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forecast import extra_losses
from calvin_eval.vla.training.language import is_language, language_losses
from calvin_eval.vla.training.losses import Losses, LossWeights, action_losses, token_losses


class Trainee(nn.Module):
    """A model that turns batches into losses, so that DDP or FSDP can be laid around it.

    Args:
        model: what is trained.
        weights: of the losses; those of RoboVLMs if None.

    Attributes:
        model: as given; its parameters are named `model.…`, as in RoboVLMs' checkpoints.
        weights: of the losses.
    """

    def __init__(self, model: RoboVLM, weights: LossWeights | None = None) -> None:
        super().__init__()
        self.model = model
        self.weights = weights or LossWeights()

    def forward(self, batch: Mapping[str, Any]) -> Losses:
        """Losses of a batch in the form of `CalvinCollator` or `LanguageCollator`.

        Returns:
            Scalars: `loss`, the weighted total to minimise, with its parts and the measures
            beside them, see `training_losses`.

        Raises:
            UsageError: a batch that does not fit.
        """
        model = self.model
        if is_language(batch):
            losses = language_losses(model, batch)
            return {"loss": self.weights.total(losses), **losses}
        read = TrainingBatch.read(
            batch, window=model.window, device=model.device, dtype=model.dtype
        )
        losses = training_losses(model, read)
        return {"loss": self.weights.total(losses), **losses}


def training_losses(model: RoboVLM, batch: TrainingBatch) -> Losses:
    """Losses of a batch.

    A continuous model's action tokens lie as `compat.act_insert` says. With history "video" one
    feature stands for all frames, and is to give the chunk of the last one.

    Returns:
        See `action_losses` and `extra_losses`, and `token_losses` for a discrete model.

    Raises:
        UsageError: something that the model needs is not in the batch.
    """
    if model.action_tokenizer is not None:
        return _token_losses(model, batch, model.action_tokenizer)
    ids, mask, chunk, real = batch.ids, batch.mask, batch.chunk, batch.chunk_mask
    if ids is None or mask is None:
        raise UsageError("batch: a continuous model needs text (B, L), found none")
    if chunk is None or real is None:
        raise UsageError("batch: a continuous model needs action_chunk, found none")
    per_row = model.compat.act_insert == "per_row"
    shown = Shown(batch.static, batch.hand, ids, mask, batch.state)
    asked = model.fwd_head is not None and model.fwd_head.options.learned
    read = model.read(shown, per_row=per_row, asked=asked)
    arm, gripper = model.act_head(read.features)
    if model.history == "video":
        chunk, real = chunk[:, -1:], real[:, -1:]
    if chunk.shape[2] != model.steps:
        raise UsageError(
            f"batch: expected chunks of {model.steps} actions (fwd_pred_next_n), found "
            f"{chunk.shape[2]}"
        )
    return action_losses(arm, gripper, chunk, real) | extra_losses(model, batch, shown, read)


def _token_losses(model: RoboVLM, batch: TrainingBatch, tokenizer: ActionTokenizer) -> Losses:
    """Next-word losses over all frames of a sample in one causal sequence (RoboVLMs)."""
    fused = answered(model, batch)
    assert fused.labels is not None
    hidden = model.parts.decode(fused.embeds, fused.mask)[:, :-1]
    labels = fused.labels[:, 1:]
    # Logits where something is learned only: the vocabulary is large.
    learned = labels != IGNORED
    logits: Tensor = model.act_head(model.parts.logits(hidden[learned]))
    return token_losses(logits, labels[learned], tokenizer, model.action_dim)


def answered(model: RoboVLM, batch: TrainingBatch) -> Fused:
    """What a discrete model learns from: prompt, images and actions of frame after frame.

    Padding stays between the frames with `compat.act_insert="column"`, as the original has it,
    and goes to the right end with "per_row".

    Returns:
        Sequences (B, T * L) with labels.

    Raises:
        UsageError: a batch without rows of ids.
    """
    if batch.rows is None:
        raise UsageError(
            "batch: a discrete model needs instr_and_action_ids, _labels and _mask, found none"
        )
    frames = batch.static.shape[1]
    ids, labels, mask = (part.flatten(0, 1) for part in batch.rows)
    static = batch.static.flatten(0, 1).unsqueeze(1)
    hand = None if batch.hand is None else batch.hand.flatten(0, 1).unsqueeze(1)
    fused = model.prompt(static, hand, ids, mask, labels).join(frames)
    if model.compat.act_insert == "column":
        return fused
    assert fused.labels is not None
    # Some samples hide their actions from attention: those are no padding.
    present = fused.present | (fused.labels != IGNORED)
    return replace(fused, present=present).pad_right()
