"""The folder of a recording: finished episodes wait side by side until all frames get numbers.

An episode is written into a folder that is renamed when it is whole, so that whatever happens in
between, an episode is there or not. Frames are numbered through a split, which needs the lengths
of all episodes; numbering is done at the end, and can be broken off and done again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import UsageError
from calvin_eval.files import write_atomic
from calvin_eval.rollouts.recording.episode import Episode

CONFIG: Final = "record.json"
EPISODES: Final = "episodes.jsonl"

_STAGING = ".episodes"
_SUMMARY = "episode.json"


def frame_name(index: int) -> str:
    """CALVIN's file name of a frame."""
    return f"episode_{index:07d}.npz"


def open_recording(out: Path, config: Mapping[str, Any]) -> None:
    """Begin a recording, or go on with one that was begun with the same configuration.

    Raises:
        UsageError: the folder holds something else.
    """
    path = out / CONFIG
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = sorted(k for k in {*before, *config} if before.get(k) != config.get(k))
        if differ:
            changes = "; ".join(f"{k}: {before.get(k)!r}, now {config.get(k)!r}" for k in differ)
            raise UsageError(
                f"{out} holds a recording made otherwise ({changes}). Give the same options to go "
                "on with it, or another folder."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"expected a new or empty folder, found something else in {out}")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(config, indent=2) + "\n").encode())


class SplitStore:
    """The folder of one split.

    Args:
        folder: `training` or `validation` of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._staging = folder / _STAGING

    def episodes(self) -> list[Episode] | None:
        """All episodes in order, if their frames have numbers already."""
        path = self.folder / EPISODES
        if not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Episode.from_json(line) for line in lines]

    def finished(self) -> dict[int, Episode]:
        """Episodes that are whole; remains of others are removed."""
        found = {}
        for folder in sorted(self._staging.glob("*")) if self._staging.is_dir() else []:
            if folder.suffix == ".part":
                shutil.rmtree(folder)
            else:
                found[int(folder.name)] = Episode.read(folder / _SUMMARY)
        return found

    def begin(self, number: int) -> Path:
        """An empty folder for an episode's frames."""
        part = self._staging / f"{number:06d}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def finish(self, episode: Episode) -> None:
        """The episode's frames are whole."""
        part = self._staging / f"{episode.number:06d}.part"
        (part / _SUMMARY).write_text(episode.to_json(), encoding="utf-8")
        part.rename(part.with_suffix(""))

    def number_frames(self, episodes: Sequence[Episode]) -> None:
        """Give all frames their place in the split; harmless if some have it already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        index = 0
        for episode in episodes:
            source = self._staging / f"{episode.number:06d}"
            for frame in range(episode.frames):
                waiting = source / f"{frame:06d}.npz"
                if waiting.exists():
                    os.replace(waiting, self.folder / frame_name(index))
                index += 1

    def close(self, episodes: Sequence[Episode]) -> None:
        """Everything about the split is written: it is complete."""
        lines = "".join(f"{episode.to_json()}\n" for episode in episodes)
        write_atomic(self.folder / EPISODES, lines.encode())
        shutil.rmtree(self._staging, ignore_errors=True)
