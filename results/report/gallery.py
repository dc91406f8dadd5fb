"""The chains of a run one by one, with their videos."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeAlias

from calvin_eval.results.report.transitions import transition
from calvin_eval.results.schema import ChainRecord

VIDEOS = "videos"
MOST_CARDS = 60
"""Failures that the gallery shows; the table below it lists all chains."""

_NAME = re.compile(r"chain(\d{4,})(?:_sub(\d+))?\.(mp4|webm|gif|webp)")
_STILL = ("gif", "webp")  # shown by an image, not by a player

SubtaskOutcome: TypeAlias = Literal["done", "failed", "error"]


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video file.

    Attributes:
        path: relative to the run folder, with slashes.
        part: number of the subtask in its name; None for a whole chain.
        player: whether it needs a player; else it is an image that moves.
    """

    path: str
    part: int | None
    player: bool


@dataclass(frozen=True, kw_only=True)
class ChainRow:
    """One chain, as a report shows it.

    Attributes:
        chain: its id.
        outcome: all done, a task failed, or an error.
        boxes: per planned task its name and `done`, `failed` or `open`.
        length: tasks done in a row.
        ending: the task that ended it, after the one before; empty if all are done.
        task: the task that ended it; empty likewise.
        instruction: the last one that was given and not carried out; empty likewise.
        steps: environment steps of the whole chain.
        error: what broke it off; empty for other chains.
        videos: whole chains first, then subtasks in order.
    """

    chain: int
    outcome: SubtaskOutcome
    boxes: tuple[tuple[str, str], ...]
    length: int
    ending: str
    task: str
    instruction: str
    steps: int
    error: str
    videos: tuple[Video, ...]

    @property
    def best_video(self) -> Video | None:
        """The one that shows how the chain ended."""
        if not self.videos:
            return None
        last = None if self.videos[0].part is None else self.videos[-1].part
        return next(video for video in self.videos if video.part == last)

    @property
    def error_summary(self) -> str:
        """The line of an error that says what happened."""
        lines = self.error.strip().splitlines() or [""]
        return lines[-1 if lines[0].startswith("Traceback") else 0]


def find_videos(run: Path) -> dict[int, tuple[Video, ...]]:
    """The videos in a run folder per chain; files with other names are left out."""
    found: dict[int, list[Video]] = {}
    folder = run / VIDEOS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := _NAME.fullmatch(path.name)) is not None:
            part = None if match[2] is None else int(match[2])
            video = Video(path=f"{VIDEOS}/{path.name}", part=part, player=match[3] not in _STILL)
            found.setdefault(int(match[1]), []).append(video)
    return {chain: tuple(sorted(videos, key=_order)) for chain, videos in found.items()}


def failures_with_video(rows: Sequence[ChainRow]) -> list[ChainRow]:
    """Failed chains with a video: one of each task, then a second of each, and so on.

    So the first of them show every way to fail. Tasks that fail more often come first.
    """
    per_task: dict[str, list[ChainRow]] = {}
    for row in rows:
        if row.outcome == "failed" and row.videos:
            per_task.setdefault(row.task, []).append(row)
    often = sorted(per_task.values(), key=lambda failures: -len(failures))
    rounds = zip_longest(*often)
    return [row for failures in rounds for row in failures if row is not None]


def _order(video: Video) -> tuple[int, bool, str]:
    """Of the same video in two formats, the one with a player is the better."""
    return (-1 if video.part is None else video.part), not video.player, video.path


def chain_rows(
    records: Sequence[ChainRecord], videos: Mapping[int, Sequence[Video]]
) -> list[ChainRow]:
    """Every chain, in order of their ids."""
    return [
        _row(record, tuple(videos.get(record.chain, ())))
        for record in sorted(records, key=lambda r: r.chain)
    ]


def _row(record: ChainRecord, videos: tuple[Video, ...]) -> ChainRow:
    length = record.length
    ended = length < len(record.tasks)
    task = record.tasks[length] if ended else ""
    before = record.tasks[length - 1] if length else None
    marks = ["done" if subtask.success else "failed" for subtask in record.subtasks]
    if record.status == "error":
        marks.append("error")
    marks += ["open"] * len(record.tasks)
    outcome: SubtaskOutcome = "failed" if ended else "done"
    return ChainRow(
        chain=record.chain,
        outcome="error" if record.status == "error" else outcome,
        boxes=tuple(zip(record.tasks, marks, strict=False)),
        length=length,
        ending=transition(before, task) if ended else "",
        task=task,
        instruction=record.subtasks[length].instruction if len(record.subtasks) > length else "",
        steps=sum(subtask.steps for subtask in record.subtasks),
        error=record.error or "",
        videos=videos,
    )
