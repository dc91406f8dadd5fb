"""What tests share: the official assets and golden traces, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Tests and their policy processes share few cores: threads that wait for each other would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(os.environ.get("CALVIN_EVAL_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def official() -> str:
    """Path of a mees/calvin checkout with the official assets."""
    path = SHARED / "calvin"
    if not path.is_dir():
        pytest.skip("needs the official assets in ../shared/calvin")
    return str(path)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the traces and images recorded from upstream's own code."""
    path = SHARED / "golden"
    if not path.is_dir():
        pytest.skip("needs the traces recorded from upstream in ../shared/golden")
    return path


@pytest.fixture(scope="session")
def initial_states(golden: Path) -> Any:
    """`robot_obs` (1000, 15) and `scene_obs` (1000, 24) of the official chains."""
    return dict(np.load(golden / "initial_states.npz"))
