"""Child processes that cannot outlive their parent, and a line to talk to them.

Children are fresh interpreters, not started through multiprocessing: they never import the
caller's main module (which may hold a GPU, or lack a main guard), and never torch unless they
need it. Messages are pickled over a socket pair that only parent and child hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_TAIL = 2000  # characters of a dead child's last output that a message quotes


class Child:
    """A running child and the parent's end of its line.

    Args:
        module: whose `main` is run; it calls `join_parent` first.
        environment: variables that the child gets beside its parent's.
        python: interpreter that runs it, with calvin-eval installed; the parent's if None.

    Attributes:
        connection: sends and receives pickled objects; end of file means that the child is gone.
    """

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str] | None = None,
        python: str | None = None,
    ) -> None:
        parent_end, child_end = socket.socketpair()
        # Not `-m module`: messages are made of the importable module's classes, not of __main__'s.
        code = f"from {module} import main; main()"
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        with child_end:
            self._process = subprocess.Popen(
                [python or sys.executable, "-c", code, str(child_end.fileno()), str(os.getpid())],
                pass_fds=(child_end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        self.connection: Connection[Any, Any] = Connection(parent_end.detach())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def ended(self, within: float) -> bool:
        """Whether the process is gone, or is so within some seconds.

        A process that dies closes its sockets a moment before its end can be seen.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return not self.alive

    def exit_report(self) -> str:
        """How the process ended, and the last that it printed; waits for its end."""
        code = self._process.wait()
        with contextlib.suppress(ValueError):
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._output.seek(0)
            output = self._output.read().decode(errors="replace").strip()[-_TAIL:]
            return f"{how}; last output:\n{output}" if output else f"{how}, no output"
        return f"exit code {code}"

    def kill(self) -> None:
        """End the process at once and free everything; a second call does nothing."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        self.connection.close()
        self._output.close()

    def stop(self, seconds: float = 5.0) -> None:
        """Close the line, which asks the child to end, and kill it if it does not."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()


def join_parent() -> Connection[Any, Any]:
    """In a child: the line to the parent.

    The child ignores Ctrl-C, which is the parent's to handle, and is killed by the system when
    the parent dies, even inside a driver that hangs.
    """
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to follow
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="watch parent", daemon=True).start()
    return Connection(descriptor)


def _watch(parent: int, seconds: float = 1.0) -> None:
    """Poll for the parent's death, where the system sends no signal for it."""
    pause = threading.Event()
    while not pause.wait(seconds):
        if os.getppid() != parent:
            os._exit(1)
