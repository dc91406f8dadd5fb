"""Small recordings for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import RecordSpec


def small_spec(out: Path, **changes: Any) -> RecordSpec:
    """Four training episodes in two scenes and one for validation, two tasks each, no images."""
    defaults: Mapping[str, Any] = {
        "render": "none",
        "scenes": {"training": "AD", "validation": "D"},
        "episodes": {"training": 4, "validation": 1},
        "length": 2,
        "noise": Disturbance(rate=0.5),
    }
    return RecordSpec(out=out, **{**defaults, **changes})


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
