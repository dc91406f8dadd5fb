"""A robustness suite for others: a bundle of every run, and all of it verified."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.foreign.documents import parse_json
from calvin_eval.results.bundle import write_bundle
from calvin_eval.results.model_card import ModelCard
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.document import read_written
from calvin_eval.results.robustness.suite import CLEAN, FILE, read_suite
from calvin_eval.results.store import RunFolder
from calvin_eval.running.obedience import ANOTHER, obedience
from calvin_eval.running.verifying import Progress, Scope, opened, verify_path
from calvin_eval.shifts import AXES, NO_SHIFTS

if TYPE_CHECKING:
    from calvin_eval.results.verification import Verification
    from calvin_eval.rollouts.verify.inputs import Sources

BUNDLE = ".zip"


@dataclass(frozen=True, kw_only=True)
class VerifiedSuite:
    """What was found in a suite.

    Attributes:
        runs: by name, the clean one first.
        deviations: of the suite's own file, in words.
    """

    runs: Mapping[str, Verification]
    deviations: tuple[str, ...]

    @property
    def status(self) -> str:
        """The worst of all: `verified`, `unchecked` or `deviates`."""
        found = {run.status for run in self.runs.values()}
        if self.deviations or "deviates" in found:
            return "deviates"
        return "unchecked" if "unchecked" in found else "verified"


def bundle_suite(folder: Path, card: ModelCard, target: Path) -> list[Path]:
    """Write a bundle of every run of a suite, and the suite's file, into a new folder.

    Raises:
        UsageError: the target exists, or the card is for another split.
        RunFolderError: the suite cannot be read, a run of it is not over, or the disk refuses.
    """
    if target.suffix == BUNDLE or target.exists():
        raise UsageError(f"expected a new folder for the bundles of a suite, found {target}")
    names = _runs(folder)
    target.mkdir(parents=True)
    try:
        made = [
            write_bundle(RunFolder.open(folder / name), card, target / f"{name}{BUNDLE}").path
            for name in names
        ]
        shutil.copyfile(folder / FILE, target / FILE)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return made


def verify_suite(
    folder: Path, scope: Scope, *, sources: Sources, workers: int | None, progress: Progress
) -> VerifiedSuite:
    """Verify every run of a suite, a folder of run folders or of bundles, and its file.

    The file is compared with what the runs give when they are measured again.

    Args:
        folder: of the suite.
        scope: which chains of every run.
        sources: of all runs.
        workers: processes; None takes one per core.
        progress: shows how far each run is.

    Raises:
        UsageError: a source is not there, or not what the runs used.
        RunFolderError: the suite cannot be read.
    """
    names = _runs(folder)
    runs = {
        name: verify_path(
            _place(folder, name), scope, sources=sources, workers=workers, progress=progress
        ).result
        for name in names
    }
    return VerifiedSuite(runs=runs, deviations=tuple(_of_the_file(folder, names, sources)))


def _runs(folder: Path) -> list[str]:
    """Names of a suite's runs that are there, the clean one first."""
    written = read_written(folder)
    names = [CLEAN, *(cell.name.folder for cell in written.cells)]
    if absent := [name for name in names if not _place(folder, name).exists()]:
        raise RunFolderError(f"{folder}: expected the runs {', '.join(absent)} of the suite")
    return names


def _place(folder: Path, name: str) -> Path:
    """A run's folder, or its bundle."""
    return folder / name if (folder / name).is_dir() else folder / f"{name}{BUNDLE}"


def _of_the_file(folder: Path, names: list[str], sources: Sources) -> Iterator[str]:
    """What the suite's file says that its runs do not give."""
    written, found = read_written(folder), parse_json((folder / FILE).read_bytes())
    cells = {str(cell.name) for cell in written.cells} | set(written.missing)
    order = [CellName(axis=axis, level=level) for axis in AXES for level in AXES[axis].levels]
    planned = [name for name in order if str(name) in cells]
    with _unpacked(folder, names) as root:
        shifts = NO_SHIFTS
        if ANOTHER in planned and (root / ANOTHER.folder).exists():
            shifts = RunFolder.open(root / ANOTHER.folder).header().protocol.shifts
        told = obedience(root, ANOTHER.folder, shifts, sources.assets) if shifts else {}
        unasked = obedience(root, CLEAN, shifts, sources.assets, told) if told else {}
        suite = read_suite(root, planned, written.stop_width, told, unasked)
    expected = json.loads(json.dumps(suite.to_json()))
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            yield f"{FILE}: {key}: expected what the runs give when they are measured again"


@contextmanager
def _unpacked(folder: Path, names: list[str]) -> Iterator[Path]:
    """A folder with all runs in it, those of bundles unpacked for as long as it lasts."""
    with tempfile.TemporaryDirectory(prefix="calvin-eval-") as place, ExitStack() as runs:
        for name in names:
            run = runs.enter_context(opened(_place(folder, name)))
            os.symlink(run.path.resolve(), Path(place) / name)
        yield Path(place)
