"""Where a confined process may write."""

from __future__ import annotations

import shutil
from pathlib import Path

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.confinement import why_not
from calvin_eval.rollouts.socket_folder import make_socket_folder


class Room:
    """The scratch folder of a confined process, made when it starts and removed behind it.

    Raises:
        UsageError: no process can be confined on this machine.
    """

    def __init__(self) -> None:
        if (reason := why_not()) is not None:
            raise UsageError(
                f"engine.confine=true: expected Linux with Landlock and seccomp, found {reason}. "
                "Run the policy in a container, or without this option if you trust its author."
            )
        self._folder: Path | None = None

    def enter(self) -> str:
        """A new folder, in place of the one before."""
        self.leave()
        inside = f"{'x' * len('calvin-eval-00000000')}/policy"  # where the policy's socket will be
        self._folder = make_socket_folder(inside)
        return str(self._folder)

    def leave(self) -> None:
        """Remove the folder and what is in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
