"""Chain lists in files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.sim.sequences import SymbolicChain
from calvin_eval.sim.symbolic import TASK_NAMES, SymbolicState

MAX_CHAIN_LENGTH: Final = 10


def read_chain_file(path: Path) -> list[SymbolicChain]:
    """Reads and checks a user's list.

    Args:
        path: of a JSON file `[[initial_state, [task, ...]], ...]`.

    Raises:
        UsageError: what it holds is not that.
    """
    try:
        entries = parse_json(path.read_bytes())
    except (OSError, DocumentError) as error:
        raise UsageError(f"chain list {path}: expected JSON, found {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"chain list {path}: expected a non-empty list [[initial_state, [task, ...]], ...], "
            f"found {type(entries).__name__} {str(entries)[:40]!r}"
        )
    chains = []
    for i, entry in enumerate(entries):
        try:
            chains.append(_parse_entry(entry))
        except UsageError as error:
            raise UsageError(f"chain list {path}, entry {i}: {error}") from error
    return chains


def _parse_entry(entry: object) -> SymbolicChain:
    """Checks one entry of a user's list."""
    match entry:
        case [dict() as state, list() as tasks]:
            pass
        case _:
            raise UsageError(f"expected [initial_state, [task, ...]], found {str(entry)[:80]}")
    if not 1 <= len(tasks) <= MAX_CHAIN_LENGTH:
        raise UsageError(f"expected 1 to {MAX_CHAIN_LENGTH} tasks, found {len(tasks)}")
    for task in tasks:
        if task not in TASK_NAMES:
            raise UnknownNameError("task", task, TASK_NAMES)
    return SymbolicState.initial(state), tuple(tasks)
