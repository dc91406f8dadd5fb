"""The supervisor's clock: who counts as hanging, and who is only late."""

from __future__ import annotations

from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from calvin_eval.rollouts import supervisor
from calvin_eval.rollouts.attempts import ChainQueue
from calvin_eval.rollouts.engine import FaultRules
from calvin_eval.rollouts.slots import WorkerSlot
from calvin_eval.rollouts.supervisor import Supervisor
from calvin_eval.sim.chains import load_chains

LIMIT = 3.0
CHAIN = load_chains("official").chains[0]


class Supervised:
    """One worker that never says anything, and the engine's supervisor at a time of our choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.respawned: list[int] = []
        self.notes: list[str] = []
        monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.line, self.worker = Pipe()
        silent: Any = SimpleNamespace(connection=self.line)
        self.slot = WorkerSlot(number=0, host=0, worker=silent, heard=0.0)

        def replace(old: Any, host: Any) -> Any:
            self.respawned.append(self.slot.number)
            return old

        workers: Any = SimpleNamespace(replace=replace, adapt=lambda assignment: assignment)
        watcher: Any = SimpleNamespace(note=self.notes.append)
        hosts: Any = [SimpleNamespace(hangs=lambda seconds: False)]
        assign: Any = lambda host: None  # noqa: E731
        faults = FaultRules(step_timeout=LIMIT)
        self._supervisor = Supervisor([self.slot], workers, faults, assign, hosts, watcher)

    def look(self, now: float) -> list[int]:
        """Who is replaced when the clock shows this."""
        self.now = now
        self.respawned.clear()
        self._supervisor._check_clock()
        return self.respawned


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Supervised:
    return Supervised(monkeypatch)


def test_a_worker_that_is_silent_in_a_chain_is_replaced(supervised: Supervised) -> None:
    supervised.slot.ready, supervised.slot.chain = True, CHAIN
    assert supervised.look(LIMIT - 0.1) == []
    assert supervised.look(LIMIT) == [0]
    assert "simulator worker hung: no progress for 3 s" in supervised.notes[0]


def test_a_worker_without_a_chain_may_be_silent(supervised: Supervised) -> None:
    supervised.slot.ready = True
    assert supervised.look(1e6) == []


def test_a_worker_may_take_longer_to_start_than_a_step_may(supervised: Supervised) -> None:
    """On a busy machine it would otherwise be replaced for ever, and the run would never begin."""
    assert supervised.look(100 * LIMIT) == []
    assert supervised.look(supervisor._START_SECONDS) == [0]
    assert supervised.notes == ["simulator worker 0 was not ready after 600 s; started another"]


def test_what_is_still_unread_is_a_sign_of_life(supervised: Supervised) -> None:
    """While the engine itself was busy, with a policy to replace, say, a worker went on."""
    supervised.slot.ready, supervised.slot.chain = True, CHAIN
    supervised.worker.send("progress")
    assert supervised.look(10 * LIMIT) == []
    supervised.line.recv()
    assert supervised.look(10 * LIMIT) == [0]


def test_a_chain_under_suspicion_has_the_policy_to_itself() -> None:
    """With another one beside it, both would be lost when it hangs, and either could be blamed."""
    lines = [Pipe() for _ in range(2)]
    slots = [
        WorkerSlot(number=n, host=0, worker=SimpleNamespace(connection=line), ready=True)  # type: ignore[arg-type]
        for n, (line, _) in enumerate(lines)
    ]
    watcher: Any = SimpleNamespace(progress=lambda *what: None, done=False)
    nothing: Any = SimpleNamespace()
    engine = Supervisor(slots, nothing, FaultRules(), nothing, [nothing], watcher)
    suspect, *others = load_chains("official").chains[:4]
    engine._queue = ChainQueue(others, retries=1)
    engine._queue.put_back(suspect, "policy hung", suspect=True)

    for _ in range(2):
        engine._dispatch()
        assert [slot.chain for slot in slots] == [suspect, None]
    slots[0].chain = None  # it has ended
    engine._dispatch()
    assert [slot.chain for slot in slots] == others[:2]
