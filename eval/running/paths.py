"""Where a run is written, and how that is shown."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from calvin_eval.config.schema import EvalConfig, policy_name


def run_path(config: EvalConfig) -> Path:
    """The run folder that a configuration names or implies."""
    if config.out is not None:
        return Path(config.out)
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{policy_name(config.ckpt)}-{config.split}-{moment}"


def short_path(path: Path) -> str:
    """Relative to the current directory where that is shorter to read."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
