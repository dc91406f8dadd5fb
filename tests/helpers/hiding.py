"""An environment in which some packages seem not to be installed, for child processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_STARTUP = """
import os, sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HIDDEN = set(os.environ["HIDDEN_PACKAGES"].split())
sys.meta_path.insert(0, Hide())

def note(event, arguments):
    if event == "subprocess.Popen":
        with open(os.environ["STARTED_PROCESSES"], "a") as file:
            file.write(f"{arguments[1]}\\n")

sys.addaudithook(note)
"""


def hiding(folder: Path, modules: Iterable[str]) -> dict[str, str]:
    """Variables for a child and its own children; what they start is noted in `started.txt`.

    Args:
        folder: an existing one for files of ours.
        modules: import names that cannot be found.
    """
    (folder / "sitecustomize.py").write_text(_STARTUP)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HIDDEN_PACKAGES": " ".join(modules),
        "STARTED_PROCESSES": str(folder / "started.txt"),
        "COLUMNS": "1000",
    }
