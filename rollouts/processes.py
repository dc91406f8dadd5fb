"""Child processes that cannot outlive their parent, and a line to talk to them.

Children are fresh interpreters, not started through multiprocessing: they never import the
caller's main module (which may hold a GPU, or lack a main guard), and never torch unless they
need it. Messages are pickled over a socket pair that only parent and child hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from calvin_eval.rollouts.confinement import confine
from calvin_eval.rollouts.printed import PrintedByProcess, Sink

_PR_SET_PDEATHSIG = 1


class Child:
    """A running child and the parent's end of its line.

    Args:
        module: whose `main` is run; it calls `join_parent` first.
        environment: variables that the child gets beside its parent's.
        python: interpreter that runs it, with calvin-eval installed; the parent's if None.
        sink: gets every line that the child prints; only the last ones are kept if None.
        scratch: the one folder that the child can write to, if it is to be confined.

    Attributes:
        connection: sends and receives pickled objects; end of file means that the child is gone.
    """

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str] | None = None,
        python: str | None = None,
        sink: Sink = lambda line: None,
        scratch: str | None = None,
    ) -> None:
        parent_end, child_end = socket.socketpair()
        # Not `-m module`: messages are made of the importable module's classes, not of __main__'s.
        code = f"from {module} import main; main()"
        if scratch is not None:  # first of all: threads that exist already would stay free
            code = f"from {confine.__module__} import confine; confine({scratch!r}); {code}"
        command = [python or sys.executable, "-c", code, str(child_end.fileno()), str(os.getpid())]
        printed, written = os.pipe()
        try:
            with child_end:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(child_end.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                )
        except OSError:
            os.close(printed)
            raise
        finally:
            os.close(written)
        self._printed = PrintedByProcess(printed, sink)
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
        output = self.printed().strip()
        with contextlib.suppress(ValueError):
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return f"{how}; last output:\n{output}" if output else f"{how}, no output"
        return f"exit code {code}"

    def printed(self) -> str:
        """The last lines that the process printed until now."""
        return self._printed.last()

    def kill(self) -> None:
        """End the process at once and free everything; a second call does nothing."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        self.connection.close()
        self._printed.close()

    def stop(self, seconds: float = 5.0) -> None:
        """Close the line, which asks the child to end, and kill it if it does not."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def join_parent() -> Connection[Any, Any]:
    """In a child: the line to the parent.

    The child ignores Ctrl-C, which is the parent's to handle, and is killed by the system when
    the parent dies, even inside a driver that hangs. What it prints is text in UTF-8, line by line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale: what is printed is read
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
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
