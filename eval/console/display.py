"""What a run shows in the terminal: progress on stderr, the result on stdout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from tqdm import tqdm

from calvin_eval.console.dashboard import Dashboard
from calvin_eval.console.tables import print_comparison, print_run
from calvin_eval.console.tally import Tally
from calvin_eval.foreign.text import printable
from calvin_eval.results.schema import ChainRecord

__all__ = ["Dashboard", "PlainDisplay", "QuietDisplay", "make_display", "print_comparison",
           "print_run"]  # fmt: skip

PLAIN_SECONDS = 10.0
"""How often a run that is not on a terminal says how it is doing."""

_FORMAT = "{desc}: {percentage:3.0f}% |{bar:16}| {n_fmt}/{total_fmt} chains "
_FORMAT += "[{elapsed}<{remaining}{postfix}]"

if TYPE_CHECKING:
    _Bar = tqdm[NoReturn]
else:
    _Bar = tqdm


class _LogBar(_Bar):
    """A bar of tqdm's that writes a line of its own whenever it would redraw itself.

    Args:
        stream: where to.
        describe: called for every line; what it says stands behind the numbers.
    """

    monitor_interval = 0  # no thread that watches over us

    def __init__(
        self, stream: TextIO, describe: Callable[[], str], *, total: int, initial: int, title: str
    ) -> None:
        self._describe = describe
        super().__init__(
            total=total,
            initial=initial,
            desc=title,
            file=stream,
            leave=False,  # what has been written stays written
            mininterval=PLAIN_SECONDS,
            miniters=0,
            smoothing=0,  # the average over the run: single chains differ by a factor of ten
            ascii=" =#",
            bar_format=_FORMAT,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the bar as it is now; a message would only be tqdm's order to wipe it out."""
        if msg is None:
            self.set_postfix_str(self._describe(), refresh=False)
            self.fp.write(f"{printable(self)}\n")
            self.fp.flush()


_LogBar.set_lock(threading.RLock())  # tqdm's own is one between processes


class PlainDisplay:
    """A line now and then, for logs and pipes."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._tally = Tally()
        self._bar: _LogBar | None = None

    def note(self, text: str) -> None:
        """Say one line."""
        print(printable(text), file=self._stream, flush=True)

    def begin(
        self, chains: int, done: Sequence[ChainRecord], workers: int, title: str = ""
    ) -> None:
        """Say how many chains there are."""
        self._tally = Tally(chains, done, workers, self._clock())
        self._bar = _LogBar(
            self._stream, self._describe, total=chains, initial=len(done), title=title
        )

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Count steps; measured: 0.5 to 2 microseconds where no line is due."""
        self._tally.progress(worker, chain, position, steps, self._clock())
        if self._bar is not None:
            self._bar.update(0)

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Count a chain."""
        self._tally.record(worker, record, self._clock())
        if self._bar is not None:
            self._bar.update(1)

    def end(self) -> None:
        """Say how it ended."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.refresh()
            bar.close()

    def _describe(self) -> str:
        """Rates 1..5, average length, errors if any, and speed."""
        tally, parts = self._tally, []
        if (known := tally.length()) is not None:
            mean, spread = known
            rates = " ".join(f"{100 * rate:.0f}" for rate, _ in tally.rates())
            parts.append(f"1..{tally.longest}: {rates} %")
            parts.append(f"length {mean:.2f} ({spread.low:.2f}-{spread.high:.2f})")
        if tally.errors:
            parts.append(f"{tally.errors} error{'' if tally.errors == 1 else 's'}")
        if tally.steps:
            parts.append(f"{tally.average_speed(self._clock()):.0f} steps/s")
        return ", ".join(parts)


class QuietDisplay:
    """Nothing at all."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def begin(
        self, chains: int, done: Sequence[ChainRecord], workers: int, title: str = ""
    ) -> None:
        """Show nothing."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """Show nothing."""

    def record(self, worker: int, record: ChainRecord, shares: Mapping[str, float]) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Nothing to take down."""


def make_display(stream: TextIO, *, quiet: bool = False) -> Dashboard | PlainDisplay | QuietDisplay:
    """A live display on a terminal, plain lines elsewhere, or nothing."""
    if quiet:
        return QuietDisplay()
    from calvin_eval.console.terminal import Terminal

    console = Terminal(file=stream)
    # A console also passes for a terminal where the environment asks for colours, as build
    # services do; control sequences that move the cursor have no place in their logs.
    live = stream.isatty() and console.is_interactive and not console.is_dumb_terminal
    return Dashboard(console) if live else PlainDisplay(stream)
