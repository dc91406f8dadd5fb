"""Demonstrations from a folder of CALVIN's data set, or of any other in its format.

Facts of the format: CALVIN, dataset README; RoboVLMs, data set classes. One `.npz` per frame,
`episode_0000001.npz`, with images, `robot_obs` and `rel_actions`; annotations name spans of frames,
both ends included, with a sentence each.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.foreign.annotations import FILE, USUAL, find_annotations
from calvin_eval.foreign.archives import ArchiveError
from calvin_eval.foreign.arrays import read_arrays
from calvin_eval.foreign.unpickle import load_plain
from calvin_eval.wrappers.check.demonstrations import Demonstration
from calvin_eval.wrappers.check.lerobot_folder import read_lerobot
from calvin_eval.wrappers.check.lerobot_meta import is_lerobot

_FRAME = re.compile(r"(?P<prefix>.*?)(?P<index>\d+)\.npz")
_LONGEST = 100_000  # frames of a demonstration; CALVIN has 64
_SPLITS = ("", "validation", "training")


def read_folder(
    path: Path, count: int, keys: Mapping[str, str] | None = None
) -> Iterator[Demonstration]:
    """Demonstrations of a folder, spread evenly over its annotations.

    Args:
        path: a split (`validation`, `training`), or the folder that holds them.
            A data set in LeRobot's format is read as well.
        count: how many at most.
        keys: CALVIN's name of an array -> feature, for LeRobot's format.

    Raises:
        UsageError: there are no annotations or frames, or they are not what they should be.
    """
    if is_lerobot(path):
        yield from read_lerobot(path, count, keys)
        return
    folder, annotations = _find(path)
    spans, sentences = _spans(annotations)
    name = _frame_name(folder)
    chosen = np.unique(np.linspace(0, len(spans) - 1, count).round().astype(int))
    for number in map(int, chosen):
        first, last = spans[number]
        yield _demonstration(folder, name, number, (first, last), sentences[number])


def _find(path: Path) -> tuple[Path, Path]:
    for split in _SPLITS:
        folder = path / split
        found = find_annotations(folder)
        # A folder of splits has theirs one level below, where folders of embeddings are in others.
        if found is not None and (found.parent == folder or found.parent.name not in _SPLITS):
            return folder, found
    raise UsageError(
        f"expected {USUAL}, or {FILE} in another folder, in {path} or in its folder validation or "
        "training; found none. Name the folder of a CALVIN split, or a recording (.npz)."
    )


def _spans(path: Path) -> tuple[list[tuple[int, int]], list[str]]:
    """First and last frame, and the sentence, of every annotation."""
    content = load_plain(path)
    try:
        spans = [(int(first), int(last)) for first, last in content["info"]["indx"]]
        sentences = [str(sentence) for sentence in content["language"]["ann"]]
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"{path}: expected a dict with info.indx and language.ann ({error!r})"
        ) from error
    fine = all(0 <= a <= b < a + _LONGEST for a, b in spans)
    if not spans or len(spans) != len(sentences) or not fine:
        raise UsageError(
            f"{path}: expected spans of 1 to {_LONGEST} frames with a sentence each; found "
            f"{len(spans)} spans and {len(sentences)} sentences"
        )
    return spans, sentences


def _frame_name(folder: Path) -> str:
    """A frame's path as a format string."""
    for file in folder.iterdir():
        match = _FRAME.fullmatch(file.name)
        if match:
            prefix = match["prefix"].replace("{", "{{").replace("}", "}}")
            return f"{prefix}{{:0{len(match['index'])}d}}.npz"
    raise UsageError(f"expected frames such as episode_0000001.npz in {folder}, found none")


def _demonstration(
    folder: Path, name: str, number: int, span: tuple[int, int], sentence: str
) -> Demonstration:
    files = [folder / name.format(index) for index in range(span[0], span[1] + 1)]
    actions = np.array([_read(file, ("rel_actions",))["rel_actions"] for file in files], float)
    if actions.shape[1:] != (7,):
        raise UsageError(f"{files[0]}: expected rel_actions of 7 numbers, found {actions.shape}")
    return Demonstration(
        session=number,
        position=0,
        instruction=sentence,
        actions=actions,
        observe=partial(_observe, files),
    )


def _observe(
    files: Sequence[Path], step: int, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()
) -> Mapping[str, Any]:
    colours, depths = [f"rgb_{name}" for name in rgb], [f"depth_{name}" for name in depth]
    frame = _read(files[step], ("robot_obs", *colours, *depths), ("scene_obs",))
    states = {name: frame[name] for name in ("robot_obs", "scene_obs") if name in frame}
    return {
        "rgb_obs": {name: frame[name] for name in colours},
        "depth_obs": {name: frame[name] for name in depths},
        **{name: value.astype(np.float64) for name, value in states.items()},
    }


def _read(file: Path, names: Sequence[str], extra: Sequence[str] = ()) -> dict[str, Any]:
    """Arrays of a frame; those of `extra` only if it has them all."""
    try:
        with contextlib.suppress(KeyError):
            return read_arrays(file, (*names, *extra))
        return read_arrays(file, names)
    except FileNotFoundError as error:
        raise UsageError(f"no such frame: {file}; an annotation speaks of it") from error
    except KeyError as error:
        seen = any(name.startswith(("rgb_", "depth_")) for name in names)
        who = "this policy needs it" if seen else "the check needs it"
        raise UsageError(f"{file}: {error.args[0]}, but {who}") from error
    except (ArchiveError, OSError) as error:
        raise UsageError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
