"""Small recordings for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.session import record
from calvin_eval.rollouts.recording.spec import RecordSpec


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


def record_drawn_episode(out: Path) -> Path:
    """One short training episode with images by TinyRenderer; returns `out`."""
    record(
        small_spec(
            out,
            render="tiny",
            scenes={"training": "D", "validation": "D"},
            episodes={"training": 1, "validation": 0},
            length=1,
            noise=Disturbance(rate=0.0),
        )
    )
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
