"""Where a result came from: machine, versions, code revision, command line.

Nothing that names a person or a computer is recorded unless the command line contains it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "pybullet", "pybullet-arm64", "torch")
"""Those that can move a record; PyBullet is one of two distributions of the same module."""
_GIT_TIMEOUT = 10.0  # seconds
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def provenance() -> dict[str, Any]:
    """The facts for a run's header, as JSON values; imports none of the packages it names."""
    return {
        "time_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "argv": [_PASSWORD_IN_URL.sub("***", argument) for argument in sys.argv],
        "calvin_eval": _version("calvin-eval"),
        "git": git_state(Path(__file__).resolve().parent.parent),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Revision and dirtiness of a checkout.

    Args:
        root: the folder that must be the top of its work tree; an installed package inside
            somebody's repository is no checkout of ours.

    Returns:
        `{"revision": ..., "dirty": ...}`, or None without git or without such a checkout.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    revision = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain")
    if not top or not revision or changes is None or Path(top).resolve() != root.resolve():
        return None
    return {"revision": revision, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    # Variables such as GIT_DIR, set inside git hooks, would point at another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            check=True,
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_GIT_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
