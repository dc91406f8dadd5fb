"""What is known of a server's answers: how many, how fast, how often it was lost."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np


class Traffic:
    """Counts and durations of one policy's calls; safe for several threads.

    Attributes:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._round_trips = array("d")
        self._server = array("d")
        self._counts = dict.fromkeys(("connections", "reconnects", "timeouts", "errors"), 0)

    def count(self, what: str) -> None:
        """Count one of `connections`, `reconnects`, `timeouts`, `errors`."""
        with self._lock:
            self._counts[what] += 1

    def add(self, seconds: float, server_ms: float | None) -> None:
        """Add an answered call: its round trip, and what the server says its inference took."""
        with self._lock:
            self._round_trips.append(1000 * seconds)
            if server_ms is not None:
                self._server.append(server_ms)

    def report(self) -> dict[str, Any]:
        """JSON form: counts, and per kind of duration its mean, median, p95 and maximum in ms."""
        with self._lock:
            return {
                "address": self.address,
                "calls": len(self._round_trips),
                **self._counts,
                "round_trip_ms": _percentiles(self._round_trips),
                "server_infer_ms": _percentiles(self._server),
            }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.asarray(values)
    numbers = {
        "mean": found.mean(),
        "median": np.median(found),
        "p95": np.percentile(found, 95),
        "max": found.max(),
    }
    return {name: round(float(number), 3) for name, number in numbers.items()}
