"""What the benchmarks share: assets, and ratios of alternating measurements."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def best_assets() -> str:
    """The official pack where it is at hand, the built-in one elsewhere."""
    shared = ROOT.parent / "shared" / "calvin"
    return str(shared) if shared.is_dir() else os.environ.get("CALVIN_EVAL_ASSETS", "builtin")


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn so that a drifting machine moves them alike."""
    times = [(seconds(a), seconds(b)) for _ in range(rounds)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
