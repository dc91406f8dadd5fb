"""Losses beside those of actions: images to come, hidden patches, CLIP's view of the sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from calvin_eval.errors import UsageError
from calvin_eval.vla.extra_tokens import Reading, Shown
from calvin_eval.vla.forward_head import ForwardHead, evened, hidden_patches, patches, without
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.losses import Losses

NAMES = ("loss_obs_fwd", "loss_hand_obs_fwd")


def extra_losses(model: RoboVLM, batch: TrainingBatch, shown: Shown, read: Reading) -> Losses:
    """Losses of what a model has beside its policy head.

    Args:
        model: a continuous one.
        batch: what is learned.
        shown: what the model looked at.
        read: what it made of that.

    Returns:
        `text_l1_clip` with `use_clip_norm`; `loss_obs_fwd` and `loss_hand_obs_fwd` with a forward
        head that is learned.

    Raises:
        UsageError: the batch lacks sentences, or images to come.
    """
    losses: Losses = {}
    if model.clip_norm_head is not None:
        if batch.sentences is None:
            raise UsageError("batch: use_clip_norm needs raw_text, found none")
        losses["text_l1_clip"] = model.clip_norm_head(read.features, batch.sentences)
    head = model.fwd_head
    if head is None or not head.options.learned:
        return losses
    return losses | (_hidden(model, head, shown) if head.options.masked else
                     _to_come(model, head, batch, read))  # fmt: skip


def _to_come(model: RoboVLM, head: ForwardHead, batch: TrainingBatch, read: Reading) -> Losses:
    """Images 1, 2, ... frames later; padded ones do not count."""
    if read.asked is None or batch.future is None or batch.future_mask is None:
        raise UsageError("batch: fwd_head needs fwd_rgb_chunk and fwd_mask, found none")
    frames = slice(-1, None) if model.history == "video" else slice(None)
    count = slice(0, head.options.images)
    real = batch.future_mask[:, frames, count]
    cameras = [batch.future, batch.future_hand][: 1 + head.options.hand]
    if any(camera is None for camera in cameras):
        raise UsageError("batch: fwd_head.pred_hand_image needs fwd_hand_rgb_chunk, found none")
    wanted = [_wanted(model, head, c[:, frames, count]) for c in cameras if c is not None]
    said = head(read.asked, wanted[0].shape[-2])
    return {
        name: _mean_square(one, other, real.unsqueeze(-1))
        for name, one, other in zip(NAMES, said, wanted, strict=False)
    }


def _hidden(model: RoboVLM, head: ForwardHead, shown: Shown) -> Losses:
    """The present images where they are hidden: a pass of its own, so that actions see them whole.

    With history "video" it is the last frame's that is predicted.
    """
    options, shape = head.options, (len(shown.static), shown.static.shape[1])
    cameras = [shown.static] + ([shown.hand] if options.hand and shown.hand is not None else [])
    count = (shown.static.shape[-1] // options.patch) ** 2
    masks = [hidden_patches(shape, count, options.ratio, tube=options.tube) for _ in cameras]
    seen = [without(c, m, options.patch) for c, m in zip(cameras, masks, strict=True)]
    part = shown._replace(static=seen[0], hand=seen[1] if len(seen) > 1 else shown.hand)
    asked = model.read(part, asked=True).asked
    assert asked is not None
    frames = slice(-1, None) if model.history == "video" else slice(None)
    wanted = [_wanted(model, head, camera[:, frames].unsqueeze(2)) for camera in cameras]
    losses: Losses = {}
    said = head(asked, wanted[0].shape[-2])
    for name, one, other, mask in zip(NAMES, said, wanted, masks, strict=False):
        # The model's own tokens are no patches: there all of them count.
        hidden = mask[:, frames].unsqueeze(2) if options.pixels else torch.ones(1, dtype=torch.bool)
        losses[name] = _mean_square(one, other, hidden.to(one.device))
    return losses


def _wanted(model: RoboVLM, head: ForwardHead, images: Tensor) -> Tensor:
    """Images (B, T, P, 3, S, S) to what is predicted of them, (B, T, P, N, C)."""
    if head.options.pixels:
        return evened(patches(images.float(), head.options.patch))
    with torch.no_grad():
        tokens = model.parts.encode_images(images.flatten(0, 2).to(model.dtype))
    return torch.unflatten(tokens, 0, images.shape[:3]).float()


def _mean_square(said: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Mean square over C numbers, and over those of (B, T, P, N) that count; 0 if none does."""
    square = (said.float() - wanted).square().mean(-1)
    counts = counts.expand_as(square)
    return square.masked_fill(~counts, 0).sum() / counts.sum().clamp(min=1)
