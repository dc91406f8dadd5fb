"""Whose a run folder is: of two runs that start in one folder, one is refused."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from calvin_eval.errors import RunFolderError
from calvin_eval.files import backup_of
from calvin_eval.results.header import HEADER
from calvin_eval.results.journal import Journal

_log = logging.getLogger(__name__)


def move_aside(folder: Path, journal: Path, *, overwrite: bool) -> Path:
    """Rename a run's folder to `NAME.bak-N`; returns where it is then.

    Args:
        folder: holds something.
        journal: of the run in it.
        overwrite: whether the user wants it.

    Raises:
        RunFolderError: not wanted, not a run, or a run that is going on.
    """
    if not overwrite:
        raise RunFolderError(
            f"expected a new or empty run folder, found {folder} with something in it. Choose "
            "another with --out, or move the old run aside with --overwrite."
        )
    if not (folder / HEADER).is_file():
        raise RunFolderError(
            f"expected a run to overwrite, found {folder} without a {HEADER}. "
            "Choose another folder with --out."
        )
    target = backup_of(folder)
    held = Journal.lock(journal) if journal.exists() else contextlib.nullcontext()
    with held:
        folder.rename(target)
    _log.warning("moved the previous run to %s", target)
    return target
