"""Chain lists in files of the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.sim.symbolic import TASK_NAMES, SymbolicState

MAX_CHAIN_LENGTH: Final = 50

STATE_SIZES: Final = {"robot_obs": 15, "scene_obs": 24}
_LIGHTS: Final = slice(4, 6)
_KEYS: Final = ("initial_state", "tasks", *STATE_SIZES)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileChain:
    """One entry of a list: a symbolic state, or the numbers of a state, or both.

    Attributes:
        tasks: names of its subtasks.
        initial_state: the symbolic state that it starts from; None if the file has none.
        robot_obs: (15,) float64; None for the benchmark's own start.
        scene_obs: (24,) float64; None if it is drawn for the symbolic state.
        scene: that the numbers were recorded in; None if nobody says so.
    """

    tasks: tuple[str, ...]
    initial_state: SymbolicState | None = None
    robot_obs: FloatArray | None = None
    scene_obs: FloatArray | None = None
    scene: str | None = None


def read_chain_file(path: Path) -> list[FileChain]:
    """Reads and checks a user's list.

    Args:
        path: of a JSON file with a list of entries, or of a `.jsonl` file with one per line. An
            entry is `[initial_state, [task, ...]]`, or an object with `tasks` and
            `initial_state`, `scene_obs` (24 numbers) or both, and perhaps `robot_obs` (15); in
            the first form, an object of these may stand for `initial_state`.

    Raises:
        UsageError: what it holds is not that.
    """
    entries = _entries(path)
    chains = []
    for i, entry in enumerate(entries):
        try:
            chains.append(_parse_entry(entry))
        except UsageError as error:
            raise UsageError(f"chain list {path}, entry {i}: {error}") from error
    return chains


def _entries(path: Path) -> list[object]:
    """The entries, unchecked."""
    lines = path.suffix == ".jsonl"
    try:
        content = path.read_bytes()
        if lines:
            entries: Any = [parse_json(line) for line in content.splitlines() if line.strip()]
        else:
            entries = parse_json(content)
    except (OSError, DocumentError) as error:
        form = "one JSON value per line" if lines else "JSON"
        raise UsageError(f"chain list {path}: expected {form}, found {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"chain list {path}: expected a non-empty list [[initial_state, [task, ...]], ...], "
            f"found {type(entries).__name__} {str(entries)[:40]!r}"
        )
    return entries


def _parse_entry(entry: object) -> FileChain:
    """Checks one entry of a user's list."""
    match entry:
        case [dict() as state, list() as tasks]:
            start = state if set(state) & {*STATE_SIZES} else {"initial_state": state}
        case {"tasks": list() as tasks}:
            start = {key: value for key, value in entry.items() if key != "tasks"}  # type: ignore[attr-defined]
        case _:
            raise UsageError(
                "expected [initial_state, [task, ...]], or an object with tasks and initial_state "
                f"or scene_obs; found {str(entry)[:80]}"
            )
    if unknown := [key for key in start if key not in _KEYS]:
        raise UsageError(f"expected the keys {', '.join(_KEYS)}; found {', '.join(unknown)}")
    return FileChain(tasks=_parse_tasks(tasks), **_parse_start(start))


def _parse_tasks(tasks: list[Any]) -> tuple[str, ...]:
    if not 1 <= len(tasks) <= MAX_CHAIN_LENGTH:
        raise UsageError(f"expected 1 to {MAX_CHAIN_LENGTH} tasks, found {len(tasks)}")
    for task in tasks:
        if task not in TASK_NAMES:
            raise UnknownNameError("task", task, TASK_NAMES)
    return tuple(tasks)


def _parse_start(start: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `FileChain` that say where it starts."""
    parsed: dict[str, Any] = {
        name: state_numbers(name, start[name])
        for name in STATE_SIZES
        if start.get(name) is not None
    }
    state = start.get("initial_state")
    if state is not None:
        if not isinstance(state, Mapping):
            raise UsageError(f"expected initial_state to be an object, found {str(state)[:40]}")
        parsed["initial_state"] = SymbolicState.initial(state)
    if "scene_obs" not in parsed and ("initial_state" not in parsed or "robot_obs" in parsed):
        raise UsageError(
            "expected initial_state or scene_obs, and scene_obs wherever robot_obs is given; found "
            f"{', '.join(parsed) or 'neither'}"
        )
    return parsed


def state_numbers(name: str, values: Any) -> FloatArray:
    """A state's numbers as an array, which holds them as they are in the file.

    Raises:
        UsageError: they are not so many finite numbers, or a light is neither on nor off.
    """
    size = STATE_SIZES[name]
    fine = isinstance(values, list) and all(
        type(v) in (int, float) and math.isfinite(v) for v in values
    )
    if not fine or len(values) != size:
        found = f"{len(values)} values" if isinstance(values, list) else str(values)[:40]
        raise UsageError(f"expected {name} to be a list of {size} numbers, found {found}")
    array = np.array(values, dtype=np.float64)
    if name == "scene_obs" and not np.isin(array[_LIGHTS], (0.0, 1.0)).all():
        raise UsageError(
            f"expected the lights in scene_obs (its fifth and sixth number) to be 0 or 1; found "
            f"{array[_LIGHTS].tolist()}"
        )
    return array
