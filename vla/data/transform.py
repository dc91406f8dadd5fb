"""Any episode's window as a sample of twelve entries: what RoboVLMs trains on beside CALVIN.

What each entry holds: RoboVLMs, base_action_prediction_dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.data.actions import ActionTransform, one_or
from calvin_eval.vla.data.augment import RandomShift
from calvin_eval.vla.data.chunks import get_tensor_chunk
from calvin_eval.vla.data.labels import IGNORED, Rows, Writer

Images = Callable[[Sequence[NDArray[np.uint8]]], Tensor]
"""Camera images (H, W, 3) uint8 to a network's (T, 3, S, S)."""

ORGANISATIONS = ("interleave", "segment")
MODES = ("train", "inference")


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """How a sample is organised.

    Attributes:
        window: W.
        chunk: n.
        organise: "interleave" gives every frame its own chunk and, if discrete, its own row of
            ids; "segment" tells what has been done so far in the prompt of one row.
        mode: "train", or "inference", where the actions to come are not known.
        discrete: whether actions are ids.
        image_history: whether all frames are shown, or only the present one.
        action_history: whether the prompt of a segment tells the actions so far.
        history_id: id that stands for one action of the history of a continuous model.
    """

    window: int
    chunk: int
    organise: str = "interleave"
    mode: str = "train"
    discrete: bool = False
    image_history: bool = True
    action_history: bool = True
    history_id: int = IGNORED

    def __post_init__(self) -> None:
        if self.organise not in ORGANISATIONS:
            raise UnknownNameError("organisation of samples", self.organise, ORGANISATIONS)
        if self.mode not in MODES:
            raise UnknownNameError("mode of samples", self.mode, MODES)
        # Rows would hold from n down to no actions; RoboVLMs fails to stack them.
        if self.discrete and (self.organise, self.mode) == ("interleave", "inference"):
            raise UsageError(
                "interleaved discrete samples are for training: expected segment, or mode train"
            )


@dataclass(frozen=True, kw_only=True)
class ActionPredictionTransform:
    """Makes a sample of an instruction, actions and images.

    Its inputs:

    - instruction: the sentence.
    - actions: (W + n, 7), of which training leaves the last one out; (T - 1, 7) at inference.
      Gripper: 1 is open.
    - mask: (W + n,) which frames are real; (T,) at inference.
    - images: (W + n, H, W, 3) of the static camera; (T, ...) at inference, T >= W.
    - gripper_images: the same of the gripper's camera, or None.
    - rng: for the shifts.

    Attributes:
        layout: how it is organised.
        writer: of ids.
        images: for both cameras.
        actions: what is done to actions; its `tcp` has no meaning here, since the robot's state
            is not among the inputs.
        shifts: "static" and "gripper" -> how images are shifted.
    """

    layout: SampleLayout
    writer: Writer
    images: Images
    actions: ActionTransform = field(default_factory=ActionTransform)
    shifts: Mapping[str, RandomShift] = field(default_factory=dict)

    def __call__(
        self,
        instruction: str,
        actions: NDArray[Any],
        mask: NDArray[np.bool_],
        images: NDArray[np.uint8],
        gripper_images: NDArray[np.uint8] | None = None,
        rng: np.random.Generator | None = None,
    ) -> dict[str, Tensor | None]:
        """The twelve entries, from the inputs that the class names.

        Raises:
            UsageError: inputs of other lengths, or shifts without a generator.
        """
        self._check(len(actions), len(mask), len(images))
        mask = np.asarray(mask, bool)
        shown, later, later_mask = self._images(images, mask, "static", rng)
        hand, hand_later, _ = self._images(gripper_images, mask, "gripper", rng)
        taken = one_or(self.actions.scaled(actions[:-1] if self._training else actions), 0)
        known = mask[:-1]
        rows = self._interleaved if self.layout.organise == "interleave" else self._segment
        ids, labels, seen = rows(instruction, taken, known)
        chunk = self.layout.chunk
        values, real = torch.tensor(taken), torch.tensor(known)
        return {
            "image_tensors": shown,
            "image_chunk": later,
            "image_chunk_mask": later_mask,
            "gripper_image_tensors": hand,
            "gripper_image_chunk": hand_later,
            "input_ids": ids,
            "labels": labels,
            "attention_mask": seen,
            "action_tensors": values,
            "action_mask": real,
            "action_chunk": get_tensor_chunk(values, chunk) if self._training else None,
            "action_chunk_mask": get_tensor_chunk(real, chunk) if self._training else None,
        }

    @property
    def _training(self) -> bool:
        return self.layout.mode == "train"

    def _check(self, actions: int, mask: int, images: int) -> None:
        layout = self.layout
        frames = layout.window + layout.chunk if self._training else mask
        expected = (frames if self._training else frames - 1, frames, frames)
        if (actions, mask, images) != expected or mask < layout.window:
            raise UsageError(
                f"expected actions, mask and images of {expected} frames for W={layout.window}, "
                f"n={layout.chunk} in mode {layout.mode}; found {(actions, mask, images)}"
            )

    def _images(
        self,
        images: NDArray[np.uint8] | None,
        mask: NDArray[np.bool_],
        camera: str,
        rng: np.random.Generator | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Images, the chunks that follow each, and their mask."""
        if images is None:
            return None, None, None
        window, chunk = self.layout.window, self.layout.chunk
        if not self.layout.image_history:
            return self._shown(images[window - 1 : window], camera, rng), None, None
        shown = self._shown(images, camera, rng)
        # Segments are padded on the left, so nothing is known of what follows.
        if self.layout.organise == "segment":
            return shown, None, None
        padded = window - int(mask[:window].sum())
        shown[:padded] = shown[padded].clone()
        later = get_tensor_chunk(shown, chunk)[1:] if len(shown) > chunk else None
        later_mask = get_tensor_chunk(torch.tensor(mask), chunk)[1:] if len(mask) > chunk else None
        return shown[:window], later, later_mask

    def _shown(
        self, images: NDArray[np.uint8], camera: str, rng: np.random.Generator | None
    ) -> Tensor:
        made = self.images(list(images))
        shift = self.shifts.get(camera)
        if shift is None:
            return made
        if rng is None:
            raise UsageError("shifted images need a random generator, found none")
        return shift(made, rng)

    def _interleaved(
        self, instruction: str, actions: NDArray[Any], mask: NDArray[np.bool_]
    ) -> Rows:
        """(L,) for a continuous model, else a row (W, L) per frame."""
        chunk, writer = self.layout.chunk, self.writer
        prompt = writer.ended(writer.read(writer.text(prompts.question(instruction, chunk))))
        if not self.layout.discrete:
            return _plain(prompt)
        if writer.actions is not None:
            low, high = writer.actions.low, writer.actions.high
            actions = actions.copy()
            actions[..., -1] = np.where(actions[..., -1] == 1, high, low)
        ends = range(chunk, self.layout.window + chunk)
        rows = [writer.answered(prompt, actions[i - chunk : i], mask[i - chunk : i]) for i in ends]
        return Rows(*(torch.stack(part) for part in zip(*rows, strict=True)))

    def _segment(self, instruction: str, actions: NDArray[Any], mask: NDArray[np.bool_]) -> Rows:
        """One row (L,): what was done, the question, and in training the answer."""
        writer, layout = self.writer, self.layout
        past = (layout.window if self._training else len(actions) + 1) - 1
        done = actions[:past][mask[:past]] if layout.action_history else actions[:0]
        prompt = self._prompt_ids(instruction, done)
        if layout.discrete:
            ids, labels, _ = writer.answered(prompt, actions[past:], mask[past : len(actions)])
        else:
            ids, labels, _ = _plain(prompt)
        if not self._training and writer.stops:
            ids, labels = ids[:-1], labels[:-1]
        return Rows(ids, labels, torch.ones_like(ids, dtype=torch.bool))

    def _prompt_ids(self, instruction: str, done: NDArray[Any]) -> list[int]:
        """Ids of the history and the question."""
        if self.layout.discrete and len(done):
            history = self.writer.encode(done)
        else:
            history = [self.layout.history_id] * len(done)
        return self.writer.with_past(instruction, history, len(done), self.layout.chunk)


def _plain(prompt: list[int]) -> Rows:
    ids = torch.tensor(prompt)
    return Rows(ids, ids, torch.ones_like(ids, dtype=torch.bool))
