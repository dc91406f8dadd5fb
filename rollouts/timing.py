"""Where the time of a chain goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

Part: TypeAlias = Literal["reset", "physics", "render", "policy", "judge"]
PARTS: tuple[Part, ...] = ("reset", "physics", "render", "policy", "judge")


class Stopwatch:
    """Adds up seconds per part.

    Attributes:
        seconds: per part, since the last `take`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Count the body's wall time under a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The sums so far, which start again at zero."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken
