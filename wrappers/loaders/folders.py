"""What a folder is, by the files in it: nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


def is_lerobot(path: Path) -> bool:
    """Whether LeRobot's `save_pretrained` wrote the folder."""
    return False


def is_robovlms(path: Path) -> bool:
    """Whether the folder holds a RoboVLMs configuration beside a checkpoint."""
    return False


KINDS: Mapping[str, Callable[[Path], bool]] = {"lerobot": is_lerobot, "robovlms": is_robovlms}


def folder_kind(path: Path) -> str | None:
    """A key of `KINDS`, or None."""
    return next((kind for kind, matches in KINDS.items() if matches(path)), None)
