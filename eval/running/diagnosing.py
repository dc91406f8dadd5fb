"""A run folder or bundle, diagnosed: the files that a folder gets, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from calvin_eval.results.diagnosis import Diagnosis
from calvin_eval.results.report.diagnosis import DIAGNOSIS_HTML, diagnosis_html
from calvin_eval.rollouts.diagnosis.diagnose import diagnose_run, write_diagnosis
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.running.verifying import opened, workers_for

Bar: TypeAlias = Callable[[int], AbstractContextManager[Callable[[object], None]]]
"""Given the number of chains, gives what is called with each that is done."""


def diagnose_path(
    path: Path, sources: Sources, *, bar: Bar, workers: int | None = None, expert: bool = True
) -> Diagnosis:
    """Diagnose a run; its folder gets `diagnosis.json` and `diagnosis.html`, a bundle nothing.

    Args:
        path: a run folder or a bundle.
        sources: where its assets and chain list are.
        bar: shows how far it is.
        workers: processes; None for one per core.
        expert: whether the expert tries from where failures began and ended.

    Raises:
        UsageError: the run cannot be simulated here.
        RunFolderError: it is damaged, or the disk refuses.
    """
    with opened(path) as folder:
        chains = len(folder.records())
        with bar(chains) as watch:
            found = diagnose_run(
                folder, sources=sources, workers=workers_for(workers, chains), expert=expert,
                watch=watch,
            )  # fmt: skip
        if path.is_dir():
            write_diagnosis(folder, found)
            folder.write_text(DIAGNOSIS_HTML, diagnosis_html(found, folder.path.name))
    return found
