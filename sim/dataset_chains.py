"""Chains of one task that start where annotated frames of a data set do, and their sentences.

A chain's id is the position of its annotation in the data set's own order.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

from calvin_eval.errors import UsageError
from calvin_eval.foreign.annotations import USUAL, find_annotations
from calvin_eval.foreign.splits import Annotation, BrokenFrameError, SplitFolder, annotated_split
from calvin_eval.sim.chain_files import STATE_SIZES, FileChain, state_numbers
from calvin_eval.sim.symbolic import TASK_NAMES

_SHOWN: Final = 5  # ranges of chains that a message names


class HasScene(Protocol):
    """The part of a `Chain` that says where it may start."""

    @property
    def id(self) -> int:
        """Position in its list."""

    @property
    def scene(self) -> str | None:
        """The scene that its start state was recorded in; None if nobody says so."""


def is_dataset(source: str | Path) -> bool:
    """Says whether a source of chains or instructions is the folder of a data set."""
    return Path(source).expanduser().is_dir()


def read_dataset_chains(path: Path) -> list[FileChain]:
    """Reads the start state and the task of every annotation.

    Args:
        path: a split in CALVIN's format, or a data set, whose `validation` comes before its
            `training`.

    Raises:
        UsageError: there are no annotations, one names no task of CALVIN's, or its first frame
            has no state that the simulator can be reset to.
    """
    return list(_read(*_key(path))[0])


def read_dataset_sentences(path: Path) -> list[str]:
    """Reads the sentence of every annotation, in the order of `read_dataset_chains`.

    Raises:
        UsageError: as `read_dataset_chains`.
    """
    return list(_read(*_key(path))[1])


def _key(path: Path) -> tuple[Path, int]:
    """A split, and when its annotations were changed: it is read once as long as that stays."""
    split = annotated_split(path.expanduser())
    annotations = find_annotations(split)
    if annotations is None:
        raise UsageError(
            f"expected a data set with {USUAL} in {path}, found no annotations: chains from a data "
            "set start where annotated frames do"
        )
    return split, annotations.stat().st_mtime_ns


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> tuple[tuple[FileChain, ...], tuple[str, ...]]:
    split = SplitFolder(path)
    annotations = split.annotations or ()
    if not annotations:
        raise UsageError(f"expected annotations in {path}, found none")
    chains = tuple(_chain(split, i, annotation) for i, annotation in enumerate(annotations))
    return chains, tuple(annotation.text for annotation in annotations)


def _chain(split: SplitFolder, number: int, annotation: Annotation) -> FileChain:
    where = f"annotation {number} of {split.path} (frames {annotation.first}-{annotation.last})"
    if annotation.task not in TASK_NAMES:
        raise UsageError(
            f"{where}: expected a task of CALVIN's 34, found {annotation.task!r}; `calvin-eval "
            "dataset check` lists all that are none"
        )
    try:
        frame = split.read(annotation.first, tuple(STATE_SIZES))
        robot, scene = (state_numbers(name, frame[name].tolist()) for name in STATE_SIZES)
    except BrokenFrameError as error:
        raise UsageError(f"{where}: {error}; a start state is needed") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    shown = split.scene(annotation.first)
    return FileChain(tasks=(annotation.task,), robot_obs=robot, scene_obs=scene, scene=shown)


def require_scene(chains: Iterable[HasScene], scene: str) -> None:
    """Checks that chains start in states of the scene that they are run in.

    Args:
        chains: those of a run.
        scene: A, B, C or D.

    Raises:
        UsageError: one was recorded in another scene.
    """
    found = [chain for chain in chains if chain.scene is not None]
    wrong = next((chain for chain in found if chain.scene != scene), None)
    if wrong is None:
        return
    ranges = []
    for shown, group in groupby(found, key=lambda chain: chain.scene):
        ids = [chain.id for chain in group]
        ranges.append(f"{shown}: {ids[0]}-{ids[-1]}")
    more = ", ..." if len(ranges) > _SHOWN else ""
    raise UsageError(
        f"expected start states of scene {scene}, in which this run is, found that chain "
        f"{wrong.id} was recorded in scene {wrong.scene}. Choose the scene by --split, and its "
        f"chains by --chains ({', '.join(ranges[:_SHOWN])}{more})"
    )
