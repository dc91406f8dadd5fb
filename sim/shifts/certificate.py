"""Which draw a chain's physical variant is: the first one that the expert was seen to solve.

The list is written by `python -m tools.certify_shifts`. It holds, by axis and level, for how many
of the first official chains the expert was run, and the attempts that differ from the first draw.
It is about the seed 0; under other seeds, and for other chains, the first draw stands.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any, Final

from calvin_eval.shifts import Shifts
from calvin_eval.sim.sequences import DATA_DIR

LIST: Final = DATA_DIR / "certified_shifts.json"
SHA256: Final = "4866c800ea3239c997f5d5786e071dc456939e3b1fd02bcbfda26a0ac503d90b"
"""Hash of the list: a change of it is another suite."""


@cache
def read_list() -> dict[str, Any]:
    """The list as JSON values; empty where there is none yet."""
    if not LIST.exists():
        return {}
    document: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
    return document


def list_sha256() -> str:
    """The hash of the list as it is shipped."""
    return hashlib.sha256(LIST.read_bytes()).hexdigest()


def attempts_of(shifts: Shifts, chain: int) -> tuple[tuple[str, int], ...]:
    """Per axis, the draw of a chain's variant where it is not the first one, 0."""
    if shifts.seed:
        return ()
    axes = read_list().get("axes", {})
    found = [
        (axis, axes.get(axis, {}).get(str(level), {}).get("attempts", {}).get(str(chain), 0))
        for axis, level in shifts.levels
    ]
    return tuple((axis, attempt) for axis, attempt in found if attempt)
