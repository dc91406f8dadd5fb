"""Trainings of a few seconds: a data set of 26 small frames, a model of some thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from calvin_folder import write_split
from torch import Tensor

from calvin_eval.config.training import compose_training
from calvin_eval.vla.training.loop import train
from calvin_eval.vla.training.progress import Facts, TrainingOutcome
from calvin_eval.vla.training.saving import Position

SPANS = ((100, 112), (120, 132))
SMALL = (
    "vlm.sizes={image_size:16,patch_size:4,vision_width:16,vision_layers:1,text_width:16,"
    "text_layers:1,heads:2}",
    "fwd_pred_next_n=2", "act_head.hidden_size=16", "batch_size=4", "warmup_steps=0",
    "train_dataset.rgb_pad=1", "train_dataset.gripper_pad=1", "trainer.log_every_n_steps=1",
    "trainer.logger=[csv]",
)  # fmt: skip


def write_data(folder: Path) -> Path:
    """Training: two segments of 12 samples; validation: one of 12."""
    write_split(folder / "training", spans=SPANS, size=16)
    write_split(folder / "validation", spans=SPANS[:1], size=16)
    return folder


class TrainingNotes:
    """Notes what a training reports, and can act at each step.

    Args:
        at_step: called with the number of steps done.
    """

    def __init__(self, at_step: Callable[[int], None] | None = None) -> None:
        self.facts: Facts | None = None
        self.values: list[dict[str, float]] = []
        self.checkpoints: list[Path] = []
        self.evaluated: list[int] = []
        self._at_step = at_step

    def reading(self, split: str, done: int, total: int) -> None:
        pass

    def begin(self, facts: Facts) -> None:
        self.facts = facts

    def stepped(self, position: Position, values: Mapping[str, float]) -> None:
        self.values.append(dict(values))
        if self._at_step is not None:
            self._at_step(position.step)

    def saved(self, checkpoint: Path) -> None:
        self.checkpoints.append(checkpoint)

    def evaluate(self, folder: Path, position: Position) -> dict[str, float]:
        torch.rand(7)
        self.evaluated.append(position.step)
        return {"eval_average_length": position.step / 10}


def run(
    data: Path | None, out: Path, *overrides: str, notes: TrainingNotes | None = None
) -> TrainingOutcome:
    """Train a small model; without data, go on with a training."""
    given = ["resume=true"] if data is None else [f"data={data}", *SMALL]
    config = compose_training([f"out={out}", *given, *overrides])
    return train(config.project, out, notes or TrainingNotes(), resume=config.resume)


def weights(outcome: TrainingOutcome) -> dict[str, Tensor]:
    """Of the last checkpoint."""
    content: Any = torch.load(outcome.checkpoint, weights_only=True)
    state: dict[str, Tensor] = content["state_dict"]
    return state


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of weights that are not the same bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
