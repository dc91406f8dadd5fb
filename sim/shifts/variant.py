"""One chain's variant under the shifts of a run, and the numbers that are drawn for it.

A number depends on the axis, the quantity, the seed, the chain's id and the attempt alone, through
a hash: not on the order in which chains are run, on the process, or on what else is shifted. The
level does not enter: it scales the number, so that a chain's variant at level 5 is its variant at
level 1 gone further.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import radians

import numpy as np
from numpy.typing import NDArray

from calvin_eval.shifts import AXES, Level, Shifts

_UNITS = {"deg": radians(1)}
"""What the table's units are in the units that are computed with."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What makes a chain's variant.

    Attributes:
        shifts: of the run.
        chain: id of the chain.
        attempts: per axis, which draw is used, where the first one was found not to be solvable;
            axes that are not named use the first one, 0.
    """

    shifts: Shifts
    chain: int
    attempts: tuple[tuple[str, int], ...] = ()

    def level(self, axis: str) -> Level | None:
        """The level of an axis; None if it is not shifted."""
        return self.shifts.level(axis)

    def stream(self, axis: str, quantity: str) -> np.random.RandomState:
        """The generator of a quantity: NumPy's legacy one, whose numbers no release changes."""
        attempt = dict(self.attempts).get(axis, 0)
        key = (
            f"calvin-eval shift 1\n{axis}\n{quantity}\n{self.shifts.seed}\n{self.chain}\n{attempt}"
        )
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
        return np.random.RandomState(words)

    def span(self, axis: str, quantity: str) -> float:
        """How far a quantity goes at the level of its axis: metres, radians or a ratio."""
        level = self.level(axis)
        assert level is not None
        chosen = AXES[axis].ranges[quantity]
        return chosen.at(level) * _UNITS.get(chosen.unit, 1.0)

    def either_way(self, axis: str, quantity: str, count: int = 1) -> NDArray[np.float64]:
        """Numbers (count,) between half the span and all of it, each with a sign of its own."""
        drawn = self.stream(axis, quantity).uniform(-1.0, 1.0, count)
        return both_ways(drawn) * self.span(axis, quantity)

    def one_way(self, axis: str, quantity: str, count: int = 1) -> NDArray[np.float64]:
        """Numbers (count,) between half the span and all of it."""
        return np.abs(self.either_way(axis, quantity, count))


def both_ways(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps numbers in -1..1 to -1..-0.5 and 0.5..1."""
    found: NDArray[np.float64] = np.where(uniform < 0, -0.5, 0.5) + uniform / 2
    return found
