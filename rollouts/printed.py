"""What processes and policies print, line by line, and the last lines for whoever asks."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any, TextIO

from calvin_eval.rollouts.policy_log import PolicyLog

OWN = "this process"
"""The name, in the log, of policies that are not in a process of their own."""

_BLOCK = 2**16  # bytes
_LONGEST = 4096  # bytes of a line; a longer one is several
_LINES, _CHARACTERS = 10, 2000  # that are quoted

Sink = Callable[[str], None]


class Lines:
    """Cuts bytes into lines, hands them on, and keeps the last ones.

    Of what a line overwrites by carriage returns, as progress bars do, the last is kept.

    Args:
        sink: gets every line.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rest = b""
        self._last: deque[str] = deque(maxlen=_LINES)

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST:
            lines.append(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        for line in lines:
            self._add(line)

    def finish(self) -> None:
        """Nothing follows: the last line needs no end."""
        if self._rest:
            self._add(self._rest)
            self._rest = b""

    @property
    def last(self) -> str:
        """The last lines."""
        return "\n".join(self._last)[-_CHARACTERS:]

    def _add(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace")
        for start in range(0, max(len(text), 1), _LONGEST):
            self._last.append(text[start : start + _LONGEST])
            self._sink(text[start : start + _LONGEST])


class PrintedByProcess:
    """Reads what a process prints, in a thread.

    Args:
        descriptor: of the reading end of a pipe; closed when the process has ended.
        sink: gets every line.
    """

    def __init__(self, descriptor: int, sink: Sink) -> None:
        self._descriptor = descriptor
        self._lines = Lines(sink)
        self._lock = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._read, name="read output", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """The last lines of all that was printed until now."""
        self._drain()
        with self._lock:
            return self._lines.last

    def close(self) -> None:
        """Read what is there, and no more. Children of the process may hold the pipe open."""
        self._drain()
        with self._lock:
            self._end()

    def _read(self) -> None:
        while self._open:
            with contextlib.suppress(OSError, ValueError):
                wait([self._descriptor], timeout=1.0)
            self._drain()

    def _drain(self) -> None:
        """Take whatever can be read at once."""
        with self._lock:
            while self._open and self._readable():
                data = os.read(self._descriptor, _BLOCK)
                if data:
                    self._lines.feed(data)
                else:
                    self._end()

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN | select.POLLHUP)
        return bool(poll.poll(0))

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._lines.finish()
            os.close(self._descriptor)


_inside = threading.local()


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Meanwhile, what this thread prints is the policy's."""
    before = getattr(_inside, "policy", False)
    _inside.policy = True
    try:
        yield
    finally:
        _inside.policy = before


class _Copied:
    """A stream of this process whose text is also taken where a policy prints it.

    It is the stream in all else, so that a debugger finds its terminal.
    """

    def __init__(self, stream: TextIO, lines: Lines) -> None:
        self._stream, self._lines = stream, lines

    def write(self, text: str) -> int:
        """Write text, with escapes for what the stream's encoding does not have."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            coding = getattr(self._stream, "encoding", None) or "ascii"
            self._stream.write(text.encode(coding, "backslashreplace").decode(coding))
        if getattr(_inside, "policy", False):
            self._lines.feed(text.encode(errors="backslashreplace"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PrintedHere:
    """Takes what policies of this process print; it is shown as ever.

    Args:
        log: gets every line.
    """

    def __init__(self, log: PolicyLog) -> None:
        self._lines = Lines(lambda line: log.add(OWN, line))
        self._before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        self._ours = {name: _Copied(s, self._lines) for name, s in self._before.items() if s}
        for name, stream in self._ours.items():
            setattr(sys, name, stream)

    def last(self) -> str:
        """The last lines."""
        return self._lines.last

    def close(self) -> None:
        """Put the streams back that were there."""
        self._lines.finish()
        for name, stream in self._ours.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, self._before[name])
