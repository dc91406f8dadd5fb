"""Which stretches of frames a split has, what was said of them, and which of them to use.

Facts of the files: CALVIN, dataset README; RoboVLMs, calvin_dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.unpickle import load_plain

ANNOTATIONS = "auto_lang_ann.npy"
LANGUAGE_FOLDER = "lang_annotations"
PLAY = "ep_start_end_ids.npy"
SCENES = "scene_info.npy"
ACTED = "expert_acted.npy"
"""Where a policy was corrected (`calvin-eval record --label expert`): in which frames the expert
acted, (frames,) bool. In the others the policy did, and actions are what the expert said."""
ACTORS = ("all", "expert")
PLAY_TEXT = "execute random action."
"""RoboVLMs' words for a stretch that nobody described."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Consecutive frames.

    Attributes:
        start: number of the first frame.
        end: number of the last one, included.
        text: the sentence that describes them.
        task: id of the task, such as `open_drawer`; empty for play.
    """

    start: int
    end: int
    text: str
    task: str = ""


def read_language(folder: Path, name: str = LANGUAGE_FOLDER) -> list[Segment]:
    """The annotated segments of a split, in the file's order.

    Args:
        folder: the split.
        name: its folder with the annotations; without one they are looked for in the split.

    Raises:
        UsageError: there are no annotations, or they are not what they should be.
    """
    places = [folder / name / ANNOTATIONS, folder / ANNOTATIONS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UsageError(f"expected annotations at {places[0]} or {places[1]}, found none")
    content = load_plain(path)
    try:
        spans, language = content["info"]["indx"], content["language"]
        rows = list(zip(spans, language["ann"], language["task"], strict=True))
        segments = [Segment(int(a), int(b), str(text), str(task)) for (a, b), text, task in rows]
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"{path}: expected a dict with info.indx, language.ann and language.task of one "
            f"length ({error!r})"
        ) from error
    return _sane(segments, path)


def read_play(folder: Path, text: str = PLAY_TEXT) -> list[Segment]:
    """The recording sessions of a split, each one long segment.

    Raises:
        UsageError: the file is missing or no array (E, 2) of whole numbers.
    """
    path = folder / PLAY
    try:
        spans = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file makes NumPy raise anything
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if spans.ndim != 2 or spans.shape[1] != 2 or spans.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: expected (E, 2) whole numbers, found {spans.dtype} {spans.shape}"
        )
    return _sane([Segment(int(a), int(b), text) for a, b in spans], path)


def read_scenes(folder: Path) -> dict[str, Pair]:
    """Scene -> its first and last frame, such as "A" -> (0, 599999).

    Raises:
        UsageError: the file is missing, or no dict of ranges.
    """
    path = folder / SCENES
    content = load_plain(path)
    try:
        return {
            str(name).removeprefix("calvin_scene_"): (int(first), int(last))
            for name, (first, last) in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: expected a dict of scenes and ranges ({error!r})") from error


def read_pairs(path: Path) -> frozenset[Pair]:
    """A list of segments by their first and last frame.

    Three forms are in use: a text file with lines `number start end`, for training on a part of
    the data (RoboVLMs); a JSON file {task: [[start, end], ...]} with ten demonstrations per task
    (RoboVLMs); and a JSON list [[start, end], ...] of all that are kept.

    Raises:
        UsageError: the file is missing or something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".json":
            content = json.loads(text)
            lists = [content] if isinstance(content, list) else content.values()
            rows: list[Any] = [pair for pairs in lists for pair in pairs]
        else:
            rows = [line.split()[1:] for line in text.splitlines() if line.strip()]
        return frozenset((int(first), int(last)) for first, last in rows)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: expected lines `number start end`, or JSON {{task: [[start, end], ...]}} "
            f"or [[start, end], ...] ({error})"
        ) from error


def acted_by_expert(segments: Iterable[Segment], folder: Path) -> list[Segment]:
    """The stretches of segments in which the expert acted, each with the frame behind it.

    There its actions follow from one another, as a chunk's do; where another acted every action
    is right for its own frame. Segments of a split without marks stay as they are.

    Raises:
        UsageError: marks that are damaged, or of another number of frames.
    """
    path = folder / ACTED
    if not path.exists():
        return list(segments)
    try:
        acted = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file makes NumPy raise anything
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    found = []
    for segment in segments:
        if acted.dtype != bool or acted.ndim != 1 or segment.end >= len(acted):
            raise UsageError(
                f"{path}: expected a mark for each frame, found {acted.dtype} {acted.shape}"
            )
        steps = np.arange(segment.start, segment.end)
        kept = steps[acted[segment.start : segment.end]]
        for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
            if len(run):
                found.append(replace(segment, start=int(run[0]), end=int(run[-1]) + 1))
    return found


def choose(
    segments: Iterable[Segment],
    *,
    pairs: Iterable[Pair] | None = None,
    exclude: Sequence[str] = (),
    scenes: Mapping[str, Pair] | None = None,
    only: Sequence[str] | None = None,
) -> list[Segment]:
    """The segments that pass all filters, in their order.

    Args:
        segments: of one split.
        pairs: first and last frames of those to keep, from `read_pairs`.
        exclude: tasks to leave out.
        scenes: from `read_scenes`; needed for `only`.
        only: scenes to keep, such as ("A", "B").

    Raises:
        UnknownNameError: a scene that the split does not have.
    """
    kept = list(segments)
    if pairs is not None:
        wanted = frozenset(pairs)
        kept = [segment for segment in kept if (segment.start, segment.end) in wanted]
    kept = [segment for segment in kept if segment.task not in exclude]
    if only is None:
        return kept
    ranges = []
    for name in only:
        if name not in (scenes or {}):
            raise UnknownNameError("scene", name, scenes or {})
        ranges.append((scenes or {})[name])
    return [s for s in kept if any(first <= s.start <= last for first, last in ranges)]


def _sane(segments: list[Segment], path: Path) -> list[Segment]:
    wrong = next((s for s in segments if s.start < 0 or s.end < s.start), None)
    if wrong is not None:
        raise UsageError(
            f"{path}: expected a first frame and a last one, found {(wrong.start, wrong.end)}"
        )
    return segments
