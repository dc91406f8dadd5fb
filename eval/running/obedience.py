"""Whether a suite's first subtasks did the task that `language=another` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.header import HEADER
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.obeyed import did_another
from calvin_eval.shifts import Shifts

ANOTHER: Final = CellName(axis="language", level="another")


def obedience(
    folder: Path,
    cell: str,
    shifts: Shifts,
    assets: str | None,
    only: Mapping[int, bool] | None = None,
) -> dict[int, bool]:
    """Whether first subtasks of a run did the task that was named, by chain.

    Args:
        folder: of the suite.
        cell: the run's folder in it.
        shifts: of the cell that names another task.
        assets: of the runs, where their headers' names are not enough.
        only: the chains to look at; all planned ones if None.
    """
    if not (folder / cell / HEADER).is_file():
        return {}
    run = RunFolder.open(folder / cell)
    chains: Sequence[int] = run.header().planned if only is None else [*only]
    try:
        return did_another(run, chains, shifts, assets)
    except CalvinEvalError:
        return {}  # runs of calvin_env's own world cannot be simulated again
