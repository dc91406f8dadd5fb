"""`builtin:replay`: actions recorded earlier, played back without looking."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError, PolicyError, UsageError
from calvin_eval.foreign.archives import ArchiveError
from calvin_eval.foreign.arrays import read_arrays
from calvin_eval.wrappers.builtin.still import hold_still
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements

ACTIONS_KEY = re.compile(r"chain([0-9]{4,9})_sub([0-9]{1,2})_actions")
"""Name of the array that holds one subtask's actions: `chain0007_sub2_actions`."""

Recording = Mapping[tuple[int, int], NDArray[np.floating[Any]]]
"""Relative actions (T, 7) by (chain, position of the subtask)."""


class ReplayPolicy(BasePolicy):
    """Plays a recording back, subtask by subtask.

    Where a recording ends before its subtask succeeds, the arm holds still and the gripper
    keeps its last command, until the engine's budget is spent. A subtask that was never
    recorded is a PolicyError: a verdict about it would be made up.

    Args:
        file: an `.npz` file with arrays `chainNNNN_subJ_actions` of shape (T, 7), relative
            actions in the units of the environment; its other arrays are ignored.
        chunk: actions returned per decision; None returns all that is left of the subtask.
    """

    def __init__(self, file: str | Path, chunk: int | None = None) -> None:
        if chunk is not None and (
            isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1
        ):
            raise UsageError(f"builtin:replay: expected an integer chunk >= 1, found {chunk!r}")
        self.requirements = Requirements()
        self.name = Path(file).name
        self.chunk = chunk
        self.recording = read_recording(Path(file))

    def act(self, requests: Sequence[Request]) -> list[NDArray[np.floating[Any]]]:
        """Decide for every request: the next actions of its recording, shape (k, 7)."""
        return [self._next(r.session, r.position, r.step) for r in requests]

    def _next(self, session: int, position: int, step: int) -> NDArray[np.floating[Any]]:
        actions = self.recording.get((session, position))
        if actions is None:
            raise PolicyError(self._missing(session, position))
        if step >= len(actions):
            last = float(actions[-1, 6]) if len(actions) else 1.0
            return hold_still(last)[None]
        stop = len(actions) if self.chunk is None else step + self.chunk
        return actions[step:stop].copy()

    def _missing(self, session: int, position: int) -> str:
        subtasks = sorted(sub for chain, sub in self.recording if chain == session)
        if subtasks:
            held = f"of this chain it holds subtasks {', '.join(map(str, subtasks))}"
        else:
            chains = sorted({chain for chain, _ in self.recording})
            held = f"it holds {len(chains)} chains from {chains[0]} to {chains[-1]}"
        return (
            f"{self.name} has no actions for chain {session}, subtask {position} "
            f"(chain{session:04d}_sub{position}_actions): {held}. Run only recorded chains."
        )


def read_recording(path: Path) -> Recording:
    """Read and check all actions of a recording.

    Raises:
        CheckpointError: the file is missing, damaged, holds no actions, or holds actions that
            are not finite (T, 7) numbers.
    """
    try:
        arrays = read_arrays(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}. Expected a recording (.npz).") from error
    except (ArchiveError, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as an .npz recording ({type(error).__name__}: {error}): "
            "it is damaged or something else. Copy or record it again."
        ) from error
    keys = [(key, ACTIONS_KEY.fullmatch(key)) for key in arrays]
    return _checked({m.groups(): arrays[key] for key, m in keys if m}, path.name)


def _checked(arrays: Mapping[tuple[str | Any, ...], NDArray[Any]], name: str) -> Recording:
    """Actions by (chain, subtask), each shown to be finite numbers of shape (T, 7)."""
    if not arrays:
        raise CheckpointError(
            f"{name} holds no actions: expected arrays named like chain0000_sub0_actions (T, 7)."
        )
    recording = {}
    for (chain, sub), array in arrays.items():
        if array.dtype.kind in "iu":
            array = array.astype(np.float64)
        if array.ndim != 2 or array.shape[1] != 7 or array.dtype.kind != "f":
            raise CheckpointError(
                f"{name}: chain{chain}_sub{sub}_actions: expected numbers of shape (T, 7), "
                f"found {array.dtype} of shape {array.shape}."
            )
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{name}: chain{chain}_sub{sub}_actions: expected finite numbers, found NaN or "
                "infinity. Record it again."
            )
        place = int(chain), int(sub)
        if place in recording:
            raise CheckpointError(
                f"{name}: expected the actions of every subtask once, found chain {place[0]}, "
                f"subtask {place[1]} under two names."
            )
        recording[place] = array
    return recording
