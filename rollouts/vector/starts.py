"""Which worlds can be stepped, which start over, and which starts nobody has seen yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from calvin_eval.rollouts.vector.messages import Failed, Restart, Restarted


class Starts:
    """The state of every world of a vector environment.

    A world is in one of these states: never started, begun, ended, starting, or started with a
    first observation that no call has returned (`unseen`).

    Args:
        worlds: how many there are.

    Attributes:
        begun: worlds that can be stepped.
        ended: whose episode is over, and that nobody starts.
        starting: that are being started.
        unseen: what is known of those that have started, by world.
    """

    def __init__(self, worlds: int) -> None:
        self._serials = [0] * worlds
        self.begun: set[int] = set()
        self.ended: set[int] = set()
        self.starting: set[int] = set()
        self.unseen: dict[int, Restarted] = {}
        self._by_itself: set[int] = set()  # of the last two, those that nobody asked to start

    @property
    def asleep(self) -> set[int]:
        """Worlds that cannot be stepped since they start over."""
        return self.starting | self.unseen.keys()

    def order(
        self, world: int, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> Restart:
        """Note that a world starts over; returns what to tell its process."""
        instead = world in self._by_itself
        self._forget(world)
        self._serials[world] += 1
        self.starting.add(world)
        return Restart(
            world=world, serial=self._serials[world], seed=seed, options=options, instead=instead
        )

    def end(self, worlds: Iterable[int], *, starts: bool) -> None:
        """Note that episodes are over; `starts`: their processes start them without an order."""
        for world in worlds:
            if starts:
                self.order(world)
                self._by_itself.add(world)
            else:
                self._forget(world)
                self.ended.add(world)

    def take(self, answer: Restarted | Failed) -> Exception | None:
        """Note that a start was made, or failed; returns the error if it did."""
        world = answer.world
        if answer.serial != self._serials[world]:
            return None  # there was an order after this one
        self.starting.discard(world)
        if isinstance(answer, Failed):
            self._forget(world)
            return answer.error
        self.unseen[world] = answer
        return None

    def show(self, worlds: Iterable[int]) -> list[Restarted]:
        """The unseen starts of some worlds, which can be stepped from now on."""
        shown = [self.unseen[world] for world in sorted(worlds) if world in self.unseen]
        for start in shown:
            self._forget(start.world)
            self.begun.add(start.world)
        return shown

    def missing(self, worlds: set[int]) -> tuple[list[int], str]:
        """Those of some worlds that cannot be stepped, and why."""
        found = sorted(worlds - self.begun)
        return found, "at the end of their episodes" if self.ended & set(found) else "not started"

    def _forget(self, world: int) -> None:
        self.unseen.pop(world, None)
        for worlds in (self.begun, self.ended, self._by_itself):
            worlds.discard(world)
