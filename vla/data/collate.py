"""Samples to the batches that a policy head trains on: names and shapes of RoboVLMs.

B samples, W frames of a window, n actions of a chunk, images of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.actions import ActionTransform, open_is_one
from calvin_eval.vla.data.chunks import generate_chunk, pad_sequences
from calvin_eval.vla.data.labels import IGNORED, Rows, Writer

Sample = Mapping[str, Any]
Batch = dict[str, Any]
Text = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Instructions to ids (B, L) and their mask."""

SPELLINGS = {
    "action_chunk": "action_chunck",
    "chunk_mask": "chunck_mask",
    "fwd_rgb_chunk": "fwd_rgb_chunck",
    "fwd_hand_rgb_chunk": "fwd_hand_rgb_chunck",
}
"""A key as RoboVLMs' README writes it -> as its code does."""


def spelled(batch: Mapping[str, Any]) -> Batch:
    """A batch under the code's keys, whichever of the two spellings it came in.

    Raises:
        UsageError: a key in both spellings.
    """
    both = [key for key, code in SPELLINGS.items() if key in batch and code in batch]
    if both:
        raise UsageError(f"batch: expected one spelling, found {both[0]} and {SPELLINGS[both[0]]}")
    return {SPELLINGS.get(key, key): value for key, value in batch.items()}


@dataclass(frozen=True, kw_only=True)
class CalvinCollator:
    """Batches of `CalvinDataset`'s samples.

    A batch holds:

    - rgb, hand_rgb: (B, W, 3, S, S).
    - action: (B, W + n - 1, 7) float32, gripper 1 (open) or 0.
    - action_chunck: (B, W, n, 7), of which [:, w, c] is the action of frame w + c.
    - chunck_mask: (B, W, n) int64, 0 where it is padded.
    - fwd_rgb_chunck, fwd_hand_rgb_chunck: (B, W, n, 3, S, S), frames w + 1 + c: views of the
      images, n times as large once they are moved. None if only W images were read.
    - fwd_mask: (B, W, n) int64 of those.
    - text, text_mask: (B, L).
    - instr_and_action_ids, _labels, _mask: (B, W, L) if discrete, else None.
    - raw_text: a list of B sentences; data_source: a name.

    Attributes:
        window: W.
        chunk: n.
        text: writes the instructions of a continuous model.
        actions: what is done to actions.
        writer: of discrete labels, or None.
        tcp_labels: whether discrete labels are of the actions in the TCP frame. RoboVLMs takes
            those in the world frame even if `actions.tcp` turns what the head learns.
        state: whether the robot's state goes in as `rel_state`, (B, W, 7): where the TCP is and
            how it is turned, and 1 where the gripper is open. RoboVLMs' trainer reads such a key,
            which none of its data sets has.
        data_source: name of the task, with "action" in it.
    """

    window: int
    chunk: int
    text: Text
    actions: ActionTransform = field(default_factory=ActionTransform)
    writer: Writer | None = None
    tcp_labels: bool = False
    state: bool = False
    data_source: str = "calvin_action"

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch of samples with W + n frames each, see `CalvinDataset`; of images W will do."""
        scaled = [self.actions.scaled(_array(sample, "actions")) for sample in samples]
        turned = [
            self.actions.turned(rows, _array(sample, "robot_obs")) if self.actions.tcp else rows
            for rows, sample in zip(scaled, samples, strict=True)
        ]
        actions = torch.from_numpy(open_is_one(np.stack(turned)))
        mask = torch.stack([sample["mask"] for sample in samples]).long()
        sentences = [sample["text"] for sample in samples]
        ids, text_mask = self.text(sentences)
        rgb, rgb_chunk = self._images(samples, "rgb_static")
        hand, hand_chunk = self._images(samples, "rgb_gripper")
        labels = self._labels(samples, turned if self.tcp_labels else scaled)
        state = {"rel_state": torch.stack([self._state(s) for s in samples])} if self.state else {}
        return {
            **state,
            "rgb": rgb,
            "hand_rgb": hand,
            "action": actions[:, :-1],
            "text": ids,
            "text_mask": text_mask,
            "fwd_rgb_chunck": rgb_chunk,
            "fwd_hand_rgb_chunck": hand_chunk,
            "fwd_mask": self._chunks(mask, after=True),
            "action_chunck": self._chunks(actions),
            "chunck_mask": self._chunks(mask),
            "instr_and_action_ids": labels and labels.ids,
            "instr_and_action_labels": labels and labels.labels,
            "instr_and_action_mask": labels and labels.mask,
            "raw_text": sentences,
            "data_source": self.data_source,
        }

    def _state(self, sample: Sample) -> Tensor:
        return robot_state(sample["robot_obs"][: self.window])

    def _chunks(self, data: Tensor, *, after: bool = False) -> Tensor:
        return generate_chunk(data, self.window, self.chunk, after=after)

    def _images(self, samples: Sequence[Sample], name: str) -> tuple[Tensor | None, Tensor | None]:
        if name not in samples[0]:
            return None, None
        # In a worker it stacks straight into the memory that the other process reads.
        images = default_collate([sample[name] for sample in samples])
        if images.shape[1] == self.window:
            return images, None
        return images[:, : self.window], self._chunks(images, after=True)

    def _labels(self, samples: Sequence[Sample], actions: Sequence[Any]) -> Rows | None:
        if self.writer is None:
            return None
        rows = [
            self.writer.window(sample["text"], acted, sample["mask"].numpy(), chunk=self.chunk)
            for sample, acted in zip(samples, actions, strict=True)
        ]
        return Rows(
            pad_sequences([row.ids for row in rows], 0),
            pad_sequences([row.labels for row in rows], IGNORED),
            pad_sequences([row.mask for row in rows], False),
        )


@dataclass(frozen=True, kw_only=True)
class ActionPredictionCollator:
    """Batches of `ActionPredictionTransform`'s samples, under the keys of `CalvinCollator`.

    Attributes:
        pad_id: id that pads a row; tokenizers without one use 0.
        data_source: name of the task.
    """

    pad_id: int = 0
    data_source: str = "action"

    def __call__(self, samples: Sequence[Mapping[str, Tensor | None]]) -> Batch:
        """A batch; entries that are None in the samples are None here.

        `text` and `instr_and_action_ids` are the same (B, L), or (B, W, L) if each frame has a row.
        """
        ids = pad_sequences(_column(samples, "input_ids"), self.pad_id)
        seen = pad_sequences(_column(samples, "attention_mask"), False)
        return {
            "rgb": _stacked(samples, "image_tensors"),
            "hand_rgb": _stacked(samples, "gripper_image_tensors"),
            "fwd_rgb_chunck": _stacked(samples, "image_chunk"),
            "fwd_hand_rgb_chunck": _stacked(samples, "gripper_image_chunk"),
            "fwd_mask": _stacked(samples, "image_chunk_mask"),
            "text": ids,
            "text_mask": seen,
            "action": _stacked(samples, "action_tensors"),
            "action_mask": _stacked(samples, "action_mask"),
            "action_chunck": _stacked(samples, "action_chunk"),
            "chunck_mask": _stacked(samples, "action_chunk_mask"),
            "instr_and_action_ids": ids,
            "instr_and_action_labels": pad_sequences(_column(samples, "labels"), IGNORED),
            "instr_and_action_mask": seen,
            "data_source": self.data_source,
        }


def robot_state(robot_obs: Tensor) -> Tensor:
    """CALVIN's `robot_obs` (..., 15) to a state (..., 7): position, Euler angles, gripper 1 or 0.

    The gripper is the last command that it got, which is what CALVIN keeps of it.
    """
    opened = (robot_obs[..., -1:] > 0).to(robot_obs.dtype)
    return torch.cat([robot_obs[..., :6], opened], -1)


def _array(sample: Sample, name: str) -> Any:
    return sample[name].numpy()


def _column(samples: Sequence[Mapping[str, Any]], key: str) -> list[Tensor]:
    return [sample[key] for sample in samples]


def _stacked(samples: Sequence[Mapping[str, Any]], key: str) -> Tensor | None:
    return None if samples[0][key] is None else torch.stack(_column(samples, key))
