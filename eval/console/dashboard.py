"""The live view of a run on a terminal."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from calvin_eval.console.frame import Frame
from calvin_eval.console.tables import Signs
from calvin_eval.console.tally import Tally
from calvin_eval.results.schema import ChainRecord

REFRESH_SECONDS = 0.25
"""Shortest time between two drawings."""

MOST_SHARE = 0.005
"""Largest share of one core that drawing may take: where it is slow, it is done less often.

Measured: a drawing takes 0.8 ms at best and 1.5 ms in the middle of a run, so four of them a second
take 0.3 to 0.6 %.
"""


class Dashboard:
    """A display for terminals.

    Drawing happens in a thread of its own: the clock goes on while a policy thinks, and a
    terminal that stands still (Ctrl-S, a slow line) does not stop the run before its next note.

    Args:
        console: on the terminal.
        clock: seconds, for all that is timed here.
        cost: seconds that the thread which draws has worked.
        thread: whether to draw by itself; if not, `tick` has to be called.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
        thread: bool = True,
    ) -> None:
        self._console = console
        self._clock, self._cost, self._threaded = clock, cost, thread
        self._signs = Signs.of(console)
        self._counting = threading.Lock()
        # Reentrant: the engine's handler of Ctrl-C says a note wherever the main thread is.
        self._drawing = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._led: list[logging.StreamHandler[IO[str]]] = []
        self._tally = Tally()
        self._shares: Mapping[str, float] = {}
        self._title = ""
        self._due = self._spent = 0.0

    def note(self, text: str) -> None:
        """Say one line above the live area."""
        with self._drawing, suppress(OSError):
            self._console.print(Text(text, style="dim"), soft_wrap=True)

    def begin(
        self, chains: int, done: Sequence[ChainRecord], workers: int, title: str = ""
    ) -> None:
        """Show the live area."""
        self._tally = Tally(chains, done, workers, self._clock())
        self._shares, self._due, self._spent = {}, self._tally.began, 0.0
        # An escape sequence in place of a character would make a line longer than it says.
        coding = self._console.encoding
        self._title = title.encode(coding, errors="replace").decode(coding)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            # What a policy prints goes above the live area, unless it goes to a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()
        self._lead_logs()
        self._over.clear()
        if self._threaded:
            self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
            self._thread.start()

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps. Draws nothing; measured: 0.5 to 1.6 microseconds."""
        with self._counting:
            self._tally.progress(worker, chain, position, steps, self._clock())

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Count a chain."""
        with self._counting:
            self._tally.record(worker, record, self._clock())
            self._shares = shares

    def end(self) -> None:
        """Leave one line in place of the live area."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        live, self._live = self._live, None
        if live is None:
            return
        for handler in self._led:
            handler.setStream(self._console.file)
        self._led.clear()
        with self._drawing, suppress(OSError):
            try:
                live.update(_block(self._frame(self._clock()).last_line()))
            finally:
                live.stop()

    def tick(self) -> float:
        """Draw if it is time; returns the seconds until it is time again."""
        now = self._clock()
        if now >= self._due:
            before = self._cost()
            self._draw(now)
            # Summed up, because the clocks of some systems count in hundredths of a second.
            self._spent += self._cost() - before
            self._due = max(now + REFRESH_SECONDS, self._tally.began + self._spent / MOST_SHARE)
        return self._due - now

    def _run(self) -> None:
        with suppress(OSError):  # the terminal is gone, the run goes on
            while not self._over.wait(self.tick()):
                pass

    def _draw(self, now: float) -> None:
        with self._counting:
            self._tally.look(now)
            lines = self._frame(now).lines(self._title, self._console.height - 1)
        with self._drawing:
            if self._live is not None:
                self._live.update(_block(lines), refresh=True)

    def _lead_logs(self) -> None:
        """Logged lines go where printed ones do: the next drawing would wipe them out."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._console.file:
                handler.setStream(sys.stderr)
                self._led.append(handler)

    def _frame(self, now: float) -> Frame:
        return Frame(self._tally, self._shares, self._console.width, self._signs, now)


def _block(lines: Sequence[Text]) -> Group:
    for line in lines:
        line.no_wrap, line.overflow = True, "crop"
    return Group(*lines)
