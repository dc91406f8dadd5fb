"""Workers for the tests of the worker pool; their processes import this module."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from calvin_eval.errors import UsageError


class Doubler:
    """Doubles numbers; `setup` is a folder in which it leaves marks."""

    def __init__(self, setup: Path) -> None:
        self.setup = setup
        (setup / f"built-{os.getpid()}").touch()

    def answer(self, job: int) -> int:
        """Twice the job. Dies of negative ones, of -1 only once; refuses 13."""
        once = self.setup / "died"
        if job < -1 or (job == -1 and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 13:
            raise UsageError("expected another number, found 13")
        return 2 * job

    def close(self) -> None:
        """Leave a mark."""
        (self.setup / f"closed-{os.getpid()}").touch()
