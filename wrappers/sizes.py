"""How much memory an object holds on to."""

from __future__ import annotations

import gc
import sys
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType)
"""Objects that belong to the program and lead everywhere; what they refer to is not counted."""


def reachable_bytes(start: object) -> int:
    """Bytes of all objects that can be reached from one, arrays and tensors included.

    Views of one array count once each with what they show; modules, classes and functions do not
    count. Memory that a library keeps outside of Python objects is not seen.
    """
    seen: set[int] = set()
    waiting: list[Any] = [start]
    total = 0
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, _SHARED):
            continue
        seen.add(id(found))
        total += _size(found)
        waiting.extend(gc.get_referents(found))
    return total


def _size(found: Any) -> int:
    own = sys.getsizeof(found, 0)
    if not hasattr(type(found), "nbytes"):
        return own
    try:
        return max(own, int(found.nbytes))
    except Exception:  # a sparse tensor, or something else with an attribute of that name
        return own
