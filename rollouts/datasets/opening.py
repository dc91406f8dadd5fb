"""Data sets of every format that can be read, as splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import Split, open_splits
from calvin_eval.wrappers.check.lerobot_meta import is_lerobot
from calvin_eval.wrappers.check.lerobot_split import LeRobotSplit


def open_dataset(path: Path, keys: Mapping[str, str] | None = None) -> list[Split]:
    """The splits of a data set in CALVIN's or in LeRobot's format, or the one that a path names.

    Args:
        path: the folder, or the one that holds those of LeRobot's format.
        keys: CALVIN's name of an array -> feature, for LeRobot's format.

    Raises:
        UsageError: there is none, or names are given for CALVIN's own format.
    """
    ours = [path] if is_lerobot(path) else sorted(filter(is_lerobot, _folders(path)))
    if ours:
        return [LeRobotSplit(folder, keys) for folder in ours]
    if keys:
        raise UsageError(f"expected --key for a data set in LeRobot's format, found none in {path}")
    return list(open_splits(path))


def _folders(path: Path) -> list[Path]:
    """Folders in a folder, which may hold a million frames besides."""
    try:
        with os.scandir(path) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
