"""What a caller gives a vector environment, in the one form that the rest works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import InvalidActionError, UsageError


def reset_mask(given: Any, worlds: int) -> list[int]:
    """The worlds that a `reset_mask` means: bools (worlds,); all if None."""
    if given is None:
        return list(range(worlds))
    mask = np.asarray(given)
    if mask.shape != (worlds,) or mask.dtype != np.bool_ or not mask.any():
        raise UsageError(
            f"expected options['reset_mask'] to be {worlds} bools, at least one of them True; "
            f"found {mask.dtype} of shape {mask.shape}: {mask.tolist()!s:.80}"
        )
    return [int(world) for world in np.flatnonzero(mask)]


def seeds_of(seed: int | Sequence[int | None] | None, worlds: int) -> list[int | None]:
    """One for each world: of a single number, it and the next ones."""
    if seed is None:
        return [None] * worlds
    if isinstance(seed, int | np.integer):
        return [int(seed) + world for world in range(worlds)]
    seeds = [None if s is None else int(s) for s in seed]
    if len(seeds) != worlds:
        raise UsageError(f"expected one seed, or one for each of {worlds} worlds; found {seeds}")
    return seeds


def actions_of(given: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Actions of a shape, finite.

    Raises:
        InvalidActionError: they are not.
    """
    array = np.asarray(given, np.float32)
    if array.shape != shape or not np.isfinite(array).all():
        raise InvalidActionError(
            f"expected finite actions of shape {shape}, one row a world; found shape "
            f"{array.shape}{'' if array.shape != shape else ' with NaN or infinity'}"
        )
    return array
