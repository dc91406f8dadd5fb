"""Seeded damage to bytes, to JSON documents and to text: each mutation follows from its number."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

DEEP: Any = 1
for _ in range(150):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**9, 2**63, 10**400, -(10**30), 0.5, 1e308, -0.0, float("nan"),
    float("inf"), "", "x", "a\x1b[2J\x00", "‮", "=1+1", "\ud800", "x" * 5000, "../../x", "1" * 30,
    [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": None}, [{}], [[0, 1], [2]], DEEP,
)  # fmt: skip
TEXTS = (
    "", "nan", "inf", "1e400", "1_000", "-1", "99999999999999999999", "null", "true", "text", "/",
    "[1,2,3]", "{a: 1}", "[" * 300, "{" * 50, "a: *b", "!!timestamp x", "!!int x", "${oc.env:HOME}",
    "${x}", "'", '"', "\\", "=", "x=y", "~x", "\t", "é", "\x1b[2J", "🦙", "2026-11-30", "0x10", "*",
    "&a [*a]", "x" * 3000,
)  # fmt: skip


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, put in, repeated or cut off, at one to four places."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        length = rng.choice((1, 1, 2, 4, 40))
        match rng.randrange(6):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del found[at : at + length]
            case 2:
                found[at:at] = rng.randbytes(length)
            case 3:
                found[at:at] = found[at : at + length]
            case 4:
                found[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case _:
                found = found[: max(at, 1)] if rng.random() < 0.3 else found
    return bytes(found)


def damaged_document(document: Any, rng: random.Random) -> Any:
    """A JSON document with one to three of its values replaced, taken out or put elsewhere."""
    found = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            return copy.deepcopy(rng.choice(ODD))
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            case 3 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "\x1b[2J", "a.b"))] = holder.pop(key)
            case _:
                del holder[key]
    return found


def as_json(document: Any) -> bytes:
    """The document as a stranger might write it: NaN, half surrogates and all."""
    return json.dumps(document).encode()


def damaged_text(text: str, rng: random.Random) -> str:
    """A text in another one's place, or beside it, or the text damaged."""
    match rng.randrange(4):
        case 0 | 1:
            return rng.choice(TEXTS)
        case 2:
            return text + rng.choice(TEXTS)
        case _:
            return damaged_bytes(text.encode(), rng).decode("utf-8", "replace")


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _places(inner)
