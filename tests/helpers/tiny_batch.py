"""Training batches of two samples whose numbers follow from their place alone."""

from __future__ import annotations

from typing import Any

import tiny_vlm
import torch

from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.model import RoboVLM

END = 2
"""Kosmos' end token; 0 starts a text and 1 pads it."""


def batch(window: int = 3, steps: int = 2, size: int = 28) -> dict[str, Any]:
    """Two cameras, texts of 9 and 6 tokens, chunks of which some actions are padded."""
    wave = tiny_vlm.wave_like
    ids = torch.tensor([[0, *range(20, 27), END], [0, *range(30, 34), END, 1, 1, 1]])
    chunk = wave((2, window, steps, 7), 3)
    chunk[..., -1] = (chunk[..., -1] > 0).float()
    mask = torch.ones(2, window, steps, dtype=torch.long)
    mask[1, -1, 1:], mask[0, -1, -1] = 0, 0
    return {
        "rgb": wave((2, window, 3, size, size), 1),
        "hand_rgb": wave((2, window, 3, size, size), 2),
        "text": ids,
        "text_mask": ids != 1,
        "action_chunck": chunk,
        "chunck_mask": mask,
        "data_source": "calvin_action",
    }


def with_rows(given: dict[str, Any], tokenizer: ActionTokenizer) -> dict[str, Any]:
    """The same with what a discrete model reads: prompt, actions, end; padded with 0."""
    ids, labels, seen = [], [], []
    for sample, prompt in enumerate(given["text"].tolist()):
        prompt = prompt[: prompt.index(END)]
        for frame, actions in enumerate(given["action_chunck"][sample]):
            answer = tokenizer.encode(actions.numpy()).ravel().tolist()
            padded = int((given["chunck_mask"][sample, frame] == 0).sum()) * 7
            fill = given["text"].shape[1] - len(prompt) - 1
            learned = answer[: len(answer) - padded] + [-100] * padded
            ids.append([*prompt, *answer, END] + [0] * fill)
            labels.append([-100] * len(prompt) + [*learned, END] + [-100] * fill)
            seen.append([True] * (len(ids[-1]) - fill) + [False] * fill)
    shape = given["action_chunck"].shape[:2]
    return {
        **given,
        "instr_and_action_ids": torch.tensor(ids).unflatten(0, shape),
        "instr_and_action_labels": torch.tensor(labels).unflatten(0, shape),
        "instr_and_action_mask": torch.tensor(seen).unflatten(0, shape),
    }


@torch.no_grad()
def set_weights(model: RoboVLM) -> None:
    """Weights from their names alone, with a head that answers loudly."""
    tiny_vlm.set_weights(model)
    for parameter in model.act_head.parameters():
        parameter.mul_(3 if parameter.dim() > 1 else 0)
