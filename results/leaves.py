"""Where two JSON values differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 60


def differing_leaves(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """The leaves in which two JSON values differ.

    Args:
        one: JSON values; an absent entry counts as null.
        other: as `one`.
        path: where they stand.

    Yields:
        The leaf's path, as `config.seed`, and its two values as JSON, shortened.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            inner = f"{path}.{key}" if path else key
            yield from differing_leaves(one.get(key), other.get(key), inner)
    elif one != other:
        yield path, _brief(one), _brief(other)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
