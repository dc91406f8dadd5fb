"""Waiting for events, so that no test depends on how fast or how busy a machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT = 300.0
"""Seconds after which something that should have happened counts as never happening."""

_PAUSE = 0.01

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, *, limit: float = LIMIT) -> T:
    """Wait until a condition is true, and return what it returned.

    Args:
        condition: called again and again; its first true value is the result.
        what: is waited for, in words for the failure.
        limit: seconds; generous, since it only decides how long a failing test takes.

    Raises:
        AssertionError: the condition was not true within the limit.
    """
    deadline = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit:g} s in vain for this: {what}")
        time.sleep(_PAUSE)
    return found
