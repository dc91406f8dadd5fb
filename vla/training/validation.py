"""Losses over data that is not trained on."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from calvin_eval.vla.training.logs import Means


@torch.no_grad()
def validate(
    trainee: nn.Module, loader: DataLoader[Any], most: int | None, accelerator: Accelerator
) -> dict[str, float]:
    """Means over the batches of a loader, by name behind `val_`.

    Args:
        trainee: a `Trainee`, perhaps wrapped; in training mode afterwards.
        loader: see `make_loader`; the same batches in the same order every time.
        most: batches that count, all if None.
        accelerator: whose processes share the work.
    """
    means, sampler = Means(), loader.batch_sampler
    sampler.start(0)  # type: ignore[union-attr]
    trainee.eval()
    for batch in islice(loader, most):
        means.add(trainee(batch))
    trainee.train()
    return means.take(accelerator, "val_")
