"""One drawing of the live view, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.text import Text

from calvin_eval.console.tables import BAD, GOOD, Signs
from calvin_eval.console.tally import POSITIONS, Tally, WorkerState

_MOST_WIDTH = 100  # a line longer than that is hard to follow with the eye
_MOST_ROWS = 8  # workers that get a line each
_QUIET = 10.0  # seconds without a step that are worth telling
_PARTS = ("physics", "render", "inference", "waiting")
_WORTH_TELLING = 0.005  # a smaller share reads 0 %


class Frame:
    """One drawing of the dashboard.

    Lines are put together by hand: rich's tables take six times as long.

    Args:
        tally: what there is to tell.
        shares: where the time goes, 0..1 per part.
        width: columns of the terminal.
        signs: characters that it can show.
        now: on the tally's clock.
    """

    def __init__(
        self, tally: Tally, shares: Mapping[str, float], width: int, signs: Signs, now: float
    ) -> None:
        self._tally = tally
        self._shares = shares
        self._width = min(width, _MOST_WIDTH)
        self._signs = signs
        self._now = now

    def lines(self, title: str, height: int) -> list[Text]:
        """What fits into a height: first the blank lines go, then the workers' own, and so on."""
        head = [*self._title(title), self._bar(), *self._errors()]
        rates, speed = self._rates(), [self._speed()]
        workers = self._workers()
        brief = [self._crowd(), self._slowest()] if len(workers) > 1 else []
        one = [self._one_line()]
        empty = [Text()]
        for lines in (
            [*empty, *head, *empty, *rates, *empty, *workers, *empty, *speed],
            [*head, *rates, *workers, *speed],
            [*head, *rates, *brief, *speed],
            [*head, *rates, *speed],
            [*head, *one, *speed],
        ):
            if len(lines) <= height:
                return lines
        return [self._bar(), *one, *speed][: max(height, 1)]

    def last_line(self) -> list[Text]:
        """What stays on the screen when the run is over; the result follows on stdout."""
        tally = self._tally
        speed = f"{tally.average_speed(self._now):.0f} steps/s"
        parts = [
            f"{tally.chains}/{tally.planned} chains",
            duration(tally.seconds(self._now)),
            speed,
        ]
        return [Text("   ".join(parts), style="dim"), *self._errors()]

    def _title(self, title: str) -> list[Text]:
        count = len(self._tally.workers)
        workers = f"{count} worker{'' if count == 1 else 's'}"
        room = self._width - len(workers) - 2
        if not title or room < 1:
            return []
        shown = Text(title, style="bold", no_wrap=True)
        shown.truncate(room, overflow="crop", pad=True)
        return [shown.append(f"  {workers}", "not bold dim")]

    def _bar(self) -> Text:
        tally = self._tally
        left = tally.seconds_left(self._now)
        tail = f" {tally.chains}/{tally.planned} chains  {duration(tally.seconds(self._now))}"
        tail += f"  {duration(left) if left is not None else self._signs.dash} left"
        share = tally.chains / tally.planned if tally.planned else 1.0
        full, rest = self._signs.bar(share, max(self._width - len(tail), 5))
        return Text.assemble((full, GOOD), (rest, "dim"), tail)

    def _errors(self) -> list[Text]:
        count = self._tally.errors
        if not count:
            return []
        return [Text(f"{count} chain{'' if count == 1 else 's'} ended by an error", BAD)]

    def _rates(self) -> list[Text]:
        """Three lines that keep their place from the first moment on."""
        dash, wide = self._signs.dash, 8 if self._width < 72 else 10
        columns = [(f"{100 * r:.1f}", f"{100 * i.low:.0f}{dash}{100 * i.high:.0f}")
                   for r, i in self._tally.rates()]  # fmt: skip
        columns += [(dash, "")] * (POSITIONS - len(columns))
        columns = columns[: max((self._width - 20) // wide, 1)]
        length, span = dash, ""
        if (known := self._tally.length()) is not None:
            mean, interval = known
            length = f"{mean:.2f}"
            span = f"{interval.low:.2f}{dash}{interval.high:.2f}"
        heads = "".join(str(i + 1).rjust(wide) for i in range(len(columns)))
        return [
            Text(f"in a row {heads}{'length':>11}", style="dim"),
            Text(
                "success %" + "".join(rate.rjust(wide) for rate, _ in columns) + length.rjust(11),
                style="bold",
            ),
            Text("95 %     " + "".join(s.rjust(wide) for _, s in columns) + span.rjust(11), "dim"),
        ]

    def _one_line(self) -> Text:
        known = self._tally.length()
        rates = " ".join(f"{100 * rate:.0f}" for rate, _ in self._tally.rates())
        length = f", length {known[0]:.2f}" if known else ""
        return Text(f"success % {rates or self._signs.dash}{length}")

    def _workers(self) -> list[Text]:
        states = self._tally.workers
        if len(states) > _MOST_ROWS:
            return [self._grid(), self._crowd(), self._slowest()]
        heading = f"{'worker':<9}{'chain':>6}    {'subtask':<10}{'steps':>7}{'steps/s':>14}"
        return [
            Text(heading, style="dim"),
            *(self._worker(number, state) for number, state in sorted(states.items())),
        ]

    def _worker(self, number: int, state: WorkerState) -> Text:
        line = Text(f"{number:<9}")
        if not self._busy(state):
            return line.append("starting" if not state.total else "idle", "dim")
        ticks = self._signs.tick * state.position if state.position < POSITIONS else ""
        line.append(f"{state.chain:>6}    {state.position + 1} ")
        line.append(f"{ticks:<8}", GOOD).append(f"{state.steps:>7}")
        silence = self._now - state.heard
        if silence >= _QUIET:
            return line.append(f"quiet {duration(silence)}".rjust(14), "bold")
        return line.append(f"{state.speed.value:.0f}".rjust(14))

    def _grid(self) -> Text:
        """One character per worker: the subtask that it is in."""
        states = [state for _, state in sorted(self._tally.workers.items())]
        cells = "".join(
            str(min(state.position + 1, 9)) if self._busy(state) else self._signs.dot
            for state in states
        )
        return Text.assemble(("subtasks ", "dim"), cells)

    def _crowd(self) -> Text:
        states = list(self._tally.workers.values())
        counts = Counter(
            "idle" if not self._busy(state) else
            "quiet" if self._now - state.heard >= _QUIET else "busy"
            for state in states
        )  # fmt: skip
        counted = ", ".join(f"{counts[name]} {name}" for name in ("busy", "quiet", "idle"))
        return Text.assemble((f"{'workers':<9}", "dim"), counted)

    def _slowest(self) -> Text:
        busy = [item for item in self._tally.workers.items() if self._busy(item[1])]
        if not busy:
            return Text("slowest", style="dim")
        number, state = min(busy, key=lambda item: (item[1].speed.value, item[1].heard))
        worker = f"worker {number}, {state.speed.value:.0f} steps/s, chain {state.chain}"
        return Text.assemble((f"{'slowest':<9}", "dim"), f"{worker}, subtask {state.position + 1}")

    def _busy(self, state: WorkerState) -> bool:
        # The engine's last word on a chain names the position after its last one.
        return state.chain is not None and state.position < max(POSITIONS, self._tally.longest)

    def _speed(self) -> Text:
        if not self._tally.steps:
            return Text("starting", style="dim")
        shares = {part: self._shares.get(part, 0.0) for part in _PARTS}
        shares["other"] = sum(self._shares.values()) - sum(shares.values())
        shown = [part for part, share in shares.items() if share >= _WORTH_TELLING]
        while True:
            parts = [f"{part} {100 * shares[part]:.0f} %" for part in shown]
            line = "  ".join([f"{self._tally.speed.value:.0f} steps/s", *parts])
            if len(line) <= self._width or not shown:
                return Text(line)
            shown.remove(min(shown, key=shares.__getitem__))


def duration(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
