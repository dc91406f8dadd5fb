"""Processes that tests start, and those that the package starts: who runs, and when one is up."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

from waiting import wait_until


def children_of(parent: int, module: str = "calvin_eval.rollouts") -> list[int]:
    """Process ids of the package's child processes, as `rollouts.processes.Child` starts them.

    Args:
        parent: process id of whoever started them.
        module: what the child runs, or the beginning of its name.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if len(words) > 4 and words[2].startswith(f"from {module}") and words[4] == str(parent):
                found.append(int(entry.name))
    return found


def wait_for_health(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a server's `/health` answers.

    Raises:
        AssertionError: the process ended instead; with what it wrote to a piped stderr.
    """

    def answers() -> bool:
        if process.poll() is not None:
            said = process.stderr.read().decode()[-2000:] if process.stderr else ""
            raise AssertionError(f"the server ended with code {process.returncode}: {said}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
        except OSError:
            return False
        return True

    wait_until(answers, f"a server that answers on port {port}")
