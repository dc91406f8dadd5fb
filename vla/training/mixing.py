"""Several data sets in one training: which of them gives the next batch.

RoboVLMs (weighted_combined_loader): every step draws a data set by weight, and one that is at its
end starts over; an epoch has as many steps as the longest of them has batches. Its draws come from
Python's global generator; here they are a function of seed and epoch, the same in all processes,
so that a training goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from calvin_eval.errors import UsageError

_LAP = 1_000_003  # between the orders of a data set's first and second pass of an epoch


class MixedData:
    """The data sets of a `MixedLoader` as one."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of those that have one."""
        for part in self.parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


class MixedLoader:
    """Batches of several loaders, one loader a step.

    Args:
        loaders: from `make_loader`; their samplers choose their own order.
        weights: of the draw; equal ones if None.
        seed: of the draw.

    Attributes:
        dataset: all data sets together.

    Raises:
        UsageError: weights of another number, or that cannot be.
    """

    def __init__(
        self, loaders: Sequence[DataLoader[Any]], weights: Sequence[float] | None, seed: int
    ) -> None:
        given = np.asarray(weights or [1.0] * len(loaders), float)
        if given.shape != (len(loaders),) or (given < 0).any() or not given.sum() > 0:
            raise UsageError(
                f"weights: expected {len(loaders)} numbers from 0 up, one for each data set, found "
                f"{weights}"
            )
        self._loaders, self._shares, self._seed = list(loaders), given / given.sum(), seed
        self._epoch = self._done = 0
        self.dataset = MixedData([loader.dataset for loader in loaders])

    @property
    def batch_sampler(self) -> MixedLoader:
        """What has `start`, as of a loader of one data set."""
        return self

    def start(self, epoch: int, done: int = 0) -> None:
        """Choose the epoch, and how many of its batches are left out at its start."""
        self._epoch, self._done = epoch, done

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(len(loader) for loader in self._loaders)

    def order(self) -> list[int]:
        """Which loader gives each batch of the epoch."""
        draw = np.random.default_rng([self._seed, self._epoch, len(self._loaders)])
        order: list[int] = draw.choice(len(self._loaders), len(self), p=self._shares).tolist()
        return order

    def __iter__(self) -> Iterator[Any]:
        order = self.order()
        given = [order[: self._done].count(i) for i in range(len(self._loaders))]
        running: dict[int, Iterator[Any]] = {}
        for which in order[self._done :]:
            size = len(self._loaders[which])
            lap, place = divmod(given[which], size)
            if place == 0 or which not in running:
                sampler: Any = self._loaders[which].batch_sampler
                sampler.start(self._epoch + lap * _LAP, place)
                running[which] = iter(self._loaders[which])
            yield next(running[which])
            given[which] += 1
