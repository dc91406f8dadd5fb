"""One short name for a state, so that two machines can tell whether they agree to the last bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def state_hash(state: Mapping[str, Any]) -> str:
    """32 hex digits of the SHA-256 over `robot_obs` and `scene_obs` as little-endian doubles."""
    digest = hashlib.sha256()
    for name in ("robot_obs", "scene_obs"):
        digest.update(np.asarray(state[name], dtype="<f8").tobytes())
    return digest.hexdigest()[:32]
