"""What a training step reads of a batch, whoever collated it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.collate import spelled
from calvin_eval.vla.data.labels import Rows


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Tensors on one device; B samples, T <= W frames, n actions of a chunk (RoboVLMs, trainer).

    Attributes:
        static: images of the static camera, (B, T, 3, S, S), normalised.
        hand: those of the gripper camera, or None.
        ids: instructions, (B, L) int64, or None.
        mask: of the instructions, (B, L) bool, or None.
        chunk: actions, (B, T, n, 7) float32, gripper 1 (open) or 0; or None.
        chunk_mask: (B, T, n) bool, False where an action is padded; or None.
        rows: what a discrete model reads and should answer, (B, T, L) each; or None.
        state: of the robot, (B, T, 7), see `StateToken`; or None.
        sentences: the B instructions as plain text; or None.
        future: images of the static camera 1, 2, ... n frames later, (B, T, n, 3, S, S); or None.
        future_hand: the same of the gripper camera.
        future_mask: (B, T, n) bool, False where such a frame is padded; or None.
    """

    static: Tensor
    hand: Tensor | None = None
    ids: Tensor | None = None
    mask: Tensor | None = None
    chunk: Tensor | None = None
    chunk_mask: Tensor | None = None
    rows: Rows | None = None
    state: Tensor | None = None
    sentences: tuple[str, ...] | None = None
    future: Tensor | None = None
    future_hand: Tensor | None = None
    future_mask: Tensor | None = None

    @classmethod
    def read(
        cls,
        batch: Mapping[str, Any],
        *,
        window: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TrainingBatch:
        """Take what a training step needs.

        Args:
            batch: keys of `CalvinCollator`, in the code's spelling or in that of RoboVLMs'
                README. `rgb` and `hand_rgb` may lack the time axis, (B, 3, S, S), or be lists of
                B tensors.
            window: W; later frames are left out.
            device: where the tensors go.
            dtype: floating type of the images.

        Raises:
            UsageError: a key that is missing, or a tensor of another rank, size or type.
        """
        given = spelled(batch)
        source = given.get("data_source", "action")
        if "action" not in (source if isinstance(source, str) else "_".join(source)):
            raise UsageError(f"batch: expected a data_source with 'action' in it, found {source!r}")
        static, hand = _cameras(given, window, dtype)
        shape = (len(static), static.shape[1])
        ids, mask = _text(given, len(static))
        chunk, chunk_mask = _chunks(given, shape, window)
        future, future_hand = (
            _later(given, key, shape, dtype) for key in ("fwd_rgb_chunck", "fwd_hand_rgb_chunck")
        )
        made = cls(
            static=static, hand=hand, ids=ids, mask=mask, chunk=chunk, chunk_mask=chunk_mask,
            rows=_rows(given, shape), state=_state(given, shape), sentences=_sentences(given),
            future=future, future_hand=future_hand, future_mask=_later_mask(given, future),
        )  # fmt: skip
        return made.to(device)

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same on another device."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                value = value.to(device, non_blocking=True)
            elif isinstance(value, Rows):
                value = Rows(*(part.to(device, non_blocking=True) for part in value))
            values[name] = value
        return TrainingBatch(**values)


def _cameras(
    batch: Mapping[str, Any], window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    static, hand = (_images(batch, key, window) for key in ("rgb", "hand_rgb"))
    if static is None:
        raise UsageError("batch: expected images under 'rgb', found none")
    if hand is not None and hand.shape[:2] != static.shape[:2]:
        raise UsageError(
            f"batch: expected as many frames in hand_rgb as in rgb, found "
            f"{tuple(hand.shape[:2])} and {tuple(static.shape[:2])}"
        )
    return static.to(dtype), None if hand is None else hand.to(dtype)


def _images(batch: Mapping[str, Any], key: str, window: int) -> Tensor | None:
    """Images (B, T, 3, S, S), at most W frames."""
    images = batch.get(key)
    if images is None:
        return None
    if isinstance(images, Sequence):
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) != 1:
            raise UsageError(f"batch: expected images of one shape in {key}, found {shapes}")
        images = torch.stack(list(images))
    if images.dim() == 4:
        images = images.unsqueeze(1)
    if images.dim() != 5 or images.shape[2] != 3:
        raise UsageError(
            f"batch: expected {key} of shape (B, T, 3, S, S) or (B, 3, S, S), found "
            f"{tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise UsageError(f"batch: expected normalised floats in {key}, found {images.dtype}")
    shown: Tensor = images[:, :window]
    return shown


def _text(batch: Mapping[str, Any], count: int) -> tuple[Tensor | None, Tensor | None]:
    ids = batch.get("text")
    if ids is None:
        return None, None
    if not isinstance(ids, Tensor):
        raise UsageError("batch: expected token ids under 'text', found plain text")
    if ids.dim() != 2:  # rows of a discrete model, which lie under other keys too
        return None, None
    mask = batch.get("text_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape or len(ids) != count:
        raise UsageError(
            f"batch: expected text and text_mask of shape ({count}, L), found {tuple(ids.shape)} "
            f"and {tuple(mask.shape)}"
        )
    return ids, mask.bool()


def _chunks(
    batch: Mapping[str, Any], shape: tuple[int, int], window: int
) -> tuple[Tensor | None, Tensor | None]:
    chunk = batch.get("action_chunck")
    if chunk is None:
        return None, None
    if chunk.dim() == 4:
        chunk = chunk[:, :window]
    if chunk.dim() != 4 or chunk.shape[:2] != shape:
        raise UsageError(
            f"batch: expected action_chunk of shape ({shape[0]}, {shape[1]}, n, 7), found "
            f"{tuple(chunk.shape)}"
        )
    mask = batch.get("chunck_mask")
    mask = torch.ones(chunk.shape[:3]) if mask is None else mask[:, :window]
    if mask.shape != chunk.shape[:3]:
        raise UsageError(
            f"batch: expected chunk_mask of shape {tuple(chunk.shape[:3])}, found "
            f"{tuple(mask.shape)}"
        )
    return chunk.float(), mask.bool()


def _rows(batch: Mapping[str, Any], shape: tuple[int, int]) -> Rows | None:
    """Rows (B, T, L) of a discrete model; one row (B, L) is that of every frame."""
    names = [f"instr_and_action_{name}" for name in ("ids", "labels", "mask")]
    found = [batch.get(name) for name in names]
    if any(part is None for part in found):
        return None
    frames = shape[1]
    parts = [
        part.unsqueeze(1).expand(-1, frames, -1) if part.dim() == 2 else part[:, :frames]
        for part in found
        if part is not None
    ]
    sizes = {tuple(part.shape) for part in parts}
    if len(sizes) != 1 or parts[0].dim() != 3 or parts[0].shape[:2] != shape:
        raise UsageError(
            f"batch: expected {', '.join(names)} of shape ({shape[0]}, {frames}, L), found "
            f"{', '.join(str(tuple(part.shape)) for part in parts)}"
        )
    ids, labels, mask = parts
    return Rows(ids, labels, mask.bool())


def _state(batch: Mapping[str, Any], shape: tuple[int, int]) -> Tensor | None:
    state = batch.get("rel_state")
    if state is None:
        return None
    state = state[:, : shape[1]] if state.dim() == 3 else state
    if state.shape != (*shape, 7):
        raise UsageError(
            f"batch: expected rel_state of shape {(*shape, 7)}, found {tuple(state.shape)}"
        )
    found: Tensor = state.float()
    return found


def _sentences(batch: Mapping[str, Any]) -> tuple[str, ...] | None:
    texts = batch.get("raw_text")
    return None if texts is None else tuple(map(str, texts))


def _later(
    batch: Mapping[str, Any], key: str, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor | None:
    """Images to come, (B, T, n, 3, S, S)."""
    images = batch.get(key)
    if images is None or not images.is_floating_point():  # not made for a network: nobody asks
        return None
    images = images[:, : shape[1]]
    if images.dim() != 6 or images.shape[:2] != shape or images.shape[3] != 3:
        raise UsageError(
            f"batch: expected {key} of shape ({shape[0]}, {shape[1]}, n, 3, S, S), found "
            f"{tuple(images.shape)}"
        )
    found: Tensor = images.to(dtype)
    return found


def _later_mask(batch: Mapping[str, Any], future: Tensor | None) -> Tensor | None:
    if future is None:
        return None
    mask = batch.get("fwd_mask")
    mask = torch.ones(future.shape[:3]) if mask is None else mask[:, : future.shape[1]]
    if mask.shape != future.shape[:3]:
        raise UsageError(
            f"batch: expected fwd_mask of shape {tuple(future.shape[:3])}, found "
            f"{tuple(mask.shape)}"
        )
    return mask.bool()
