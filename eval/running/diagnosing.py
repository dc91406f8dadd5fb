"""A run folder or bundle, diagnosed: the files that a folder gets, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from calvin_eval.errors import UsageError
from calvin_eval.results.diagnosis import Diagnosis
from calvin_eval.results.illustrations import Illustration, Pictures
from calvin_eval.results.report.diagnosis import DIAGNOSIS_HTML, diagnosis_html, typical_chains
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.diagnosis.diagnose import diagnose_run, write_diagnosis
from calvin_eval.rollouts.diagnosis.filming import film_failures
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.running.verifying import opened, workers_for

Bar: TypeAlias = Callable[[int], AbstractContextManager[Callable[[object], None]]]
"""Given the number of chains, gives what is called with each that is done."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked at and made, beside causes and progress.

    Attributes:
        expert: whether the expert tries from where failures began and ended.
        frames: whether the page shows every failure in pictures.
        videos: how many failures are filmed beside the expert, the most typical ones first.
    """

    expert: bool = True
    frames: bool = False
    videos: int = 0

    @property
    def anything(self) -> bool:
        """Whether anything is drawn."""
        return self.frames or self.videos > 0


def diagnose_path(
    path: Path,
    sources: Sources,
    *,
    bar: Bar,
    workers: int | None = None,
    wanted: Wanted = Wanted(),
    note: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """Diagnose a run; its folder gets `diagnosis.json` and `diagnosis.html`, a bundle nothing.

    Args:
        path: a run folder or a bundle.
        sources: where its assets and chain list are.
        bar: shows how far it is.
        workers: processes; None for one per core.
        wanted: what else; pictures and films need a run folder.
        note: is told of films that could not be made.

    Raises:
        UsageError: the run cannot be simulated here, or pictures of a bundle are wanted.
        RunFolderError: it is damaged, or the disk refuses.
    """
    if wanted.anything and path.is_file():
        raise UsageError(
            "expected a run folder with --frames or --videos, found a bundle, which stays as it is"
        )
    with opened(path) as folder:
        chains = len(folder.records())
        drawn: dict[int, Illustration] = {}

        def show(illustration: Illustration) -> None:
            drawn[illustration.chain] = illustration

        with bar(chains) as watch:
            found = diagnose_run(
                folder, sources=sources, workers=workers_for(workers, chains), expert=wanted.expert,
                watch=watch, show=show if wanted.frames else None,
            )  # fmt: skip
        if path.is_dir():
            write_diagnosis(folder, found)
            count = min(wanted.videos, len(found.failures))
            videos = _film(folder, found, count, sources, workers_for(workers, count), note)
            pictures = Pictures(illustrations=drawn, videos=videos)
            folder.write_text(DIAGNOSIS_HTML, diagnosis_html(found, folder.path.name, pictures))
    return found


def _film(
    folder: RunFolder,
    found: Diagnosis,
    count: int,
    sources: Sources,
    workers: int,
    note: Callable[[str], None],
) -> dict[int, str]:
    """Film so many failures, and say which could not be; paths by chain."""
    if not count:
        return {}
    failures = {failure.chain: failure for failure in found.failures}
    order = dict.fromkeys([*typical_chains(found), *failures])
    chosen = [failures[chain] for chain in order if failures[chain].obstacle is None][:count]
    made, lost = film_failures(folder, chosen, sources=sources, workers=workers)
    for chain, reason in sorted(lost.items()):
        note(f"no film of chain {chain}: {reason}")
    return made
