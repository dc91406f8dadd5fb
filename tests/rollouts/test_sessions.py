"""The life of a policy's session, and what becomes of it when something fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from line_world import CHAIN, INSTRUCTIONS, Line, ReachOracle

from calvin_eval.errors import AssetError
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.rollouts.interrupts import marked_interrupts
from calvin_eval.rollouts.policy_errors import PolicyLostError, RemotePolicyError
from calvin_eval.rollouts.service import PolicyService, SocketPolicy
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements
from calvin_eval.wrappers.testing import fake_request

STEP = np.array([[1.0, 0, 0, 0, 0, 0, 1]])


class OwnError(BaseException):
    """What no `except Exception` catches."""


class Logged(BasePolicy):
    """Writes down its calls; `fail` is called with each of them."""

    def __init__(self, fail: Callable[[str, int], None] = lambda call, session: None) -> None:
        self.log: list[tuple[str, int]] = []
        self.fail = fail

    def _note(self, call: str, session: int) -> None:
        self.log.append((call, session))
        self.fail(call, session)

    def reset(self, session: int, instruction: str) -> None:
        self._note("reset", session)

    def act(self, requests: Sequence[Request]) -> list[Any]:
        for request in requests:
            self._note("act", request.session)
        return [STEP for _ in requests]

    def end(self, session: int) -> None:
        self._note("end", session)


def raising(where: str, error: BaseException, session: int = 7) -> Callable[[str, int], None]:
    def fail(call: str, asked: int) -> None:
        if (call, asked) == (where, session):
            raise error

    return fail


def run(policy: Any, world: Any = None, chain: Any = CHAIN) -> ChainOutcome:
    oracle: Any = ReachOracle()
    return ChainRunner(world or Line(), oracle, policy, instructions=INSTRUCTIONS).run(chain)


def test_a_session_ends_once_when_its_chain_does() -> None:
    policy = Logged()
    assert run(policy).record.length == 3
    assert policy.log == [("reset", 7), ("act", 7)] * 3 + [("end", 7)]


@pytest.mark.parametrize("where", ["reset", "act"])
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), OwnError("no")], ids=type)
def test_a_failed_chain_ends_its_session_too(where: str, error: BaseException) -> None:
    policy = Logged(raising(where, error))
    record = run(policy).record
    assert record.status == "error"
    assert f"{type(error).__name__}: {error}" in str(record.error)
    assert "in fail" in str(record.error)  # the traceback says where
    assert policy.log[-1] == ("end", 7)
    assert policy.log.count(("end", 7)) == 1


@pytest.mark.parametrize("error", [AssetError("no mesh"), PolicyLostError("gone")], ids=type)
def test_a_chain_that_is_broken_off_ends_its_session_too(error: Exception) -> None:
    class Breaking(Line):
        def advance(self, action: Any) -> None:
            raise error

    policy = Logged()
    with pytest.raises(type(error)):
        run(policy, Breaking())
    assert policy.log == [("reset", 7), ("act", 7), ("end", 7)]


def test_what_an_end_raises_is_an_error_unless_there_was_one_before() -> None:
    record = run(Logged(raising("end", SystemExit("at the end")))).record
    assert (record.status, record.length) == ("error", 3)
    assert "at the end" in str(record.error)

    def always(call: str, session: int) -> None:
        if call != "reset":
            raise ValueError(f"in {call}")

    assert "in act" in str(run(Logged(always)).record.error)


def test_an_object_with_todays_three_parts_needs_no_end() -> None:
    class Small:
        requirements = Requirements()

        def reset(self, session: int, instruction: str) -> None: ...

        def act(self, requests: Sequence[Request]) -> list[Any]:
            return [STEP]

    assert run(Small()).record.status == "completed"


@pytest.fixture
def pythons_handler() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a process in the background of a shell lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_users_ctrl_c_interrupts_and_a_policys_own_interrupt_is_an_error(
    pythons_handler: None,
) -> None:
    def press(call: str, session: int) -> None:
        if call == "act":
            signal.raise_signal(signal.SIGINT)

    own = raising("act", KeyboardInterrupt("mine"))
    with marked_interrupts():
        assert "KeyboardInterrupt: mine" in str(run(Logged(own)).record.error)
        with pytest.raises(KeyboardInterrupt):
            run(Logged(press))
    with pytest.raises(KeyboardInterrupt):  # nobody can tell them apart here
        run(Logged(own))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ThreadPoolExecutor(1) as threads:  # where no signal arrives
        outcome = threads.submit(run, Logged(own)).result()
    assert "KeyboardInterrupt: mine" in str(outcome.record.error)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    with closing(Batcher(BatchRules(wait=0.0))) as found:
        yield found


@pytest.mark.parametrize("where", ["reset", "act", "end"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OwnError("no")], ids=type)
def test_whatever_a_policy_raises_fails_its_request_and_the_policy_serves_on(
    batcher: Batcher, where: str, error: BaseException
) -> None:
    policy = Logged(raising(where, error, session=1))
    request = fake_request(policy.requirements, 1)
    with pytest.raises(RemotePolicyError, match=type(error).__name__):  # noqa: PT012 - either
        batcher.ask(policy, request, reset=True)
        batcher.end(policy, 1)
    other = fake_request(policy.requirements, 2)
    assert batcher.ask(policy, other, reset=True).chunk is STEP
    assert batcher.busy_seconds == 0


def test_a_policy_that_exits_on_one_session_of_a_batch_costs_that_session_only() -> None:
    batcher = Batcher(BatchRules(wait=10.0))
    batcher._last_call = 10.0  # so that the first request waits for the others
    policy = Logged(raising("act", SystemExit("enough"), session=1))

    def ask(session: int) -> Any:
        with batcher.client():
            ready.wait()
            return batcher.ask(policy, fake_request(policy.requirements, session), reset=True)

    ready = threading.Barrier(3)
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(ask, session) for session in range(3)]
    batcher.close()
    assert "enough" in str(futures[1].exception())
    assert [futures[i].result().chunk is STEP for i in (0, 2)] == [True, True]


def test_an_ended_session_is_asked_to_end_once(batcher: Batcher) -> None:
    policy = Logged()
    batcher.end(policy, 3)  # never began
    batcher.ask(policy, fake_request(policy.requirements, 3), reset=True)
    batcher.end(policy, 3)
    batcher.end(policy, 3)
    assert policy.log == [("reset", 3), ("act", 3), ("end", 3)]


def test_a_lost_worker_cannot_end_the_session_of_the_one_that_runs_its_chain_again(
    batcher: Batcher,
) -> None:
    policy = Logged()
    request = fake_request(policy.requirements, 3)
    batcher.ask(policy, request, reset=True, owner="lost")
    batcher.ask(policy, request, reset=True, owner="new")
    batcher.end(policy, 3, owner="lost")
    assert ("end", 3) not in policy.log
    batcher.end(policy, 3, owner="new")
    assert policy.log[-1] == ("end", 3)


def test_what_a_lost_worker_still_asks_is_not_put_to_the_policy(batcher: Batcher) -> None:
    """It was killed while its request waited, and its chain began again with another worker."""
    began, go_on = threading.Event(), threading.Event()

    def block(call: str, session: int) -> None:
        if session == 9:
            began.set()
            assert go_on.wait(30)

    policy = Logged(block)

    def ask(session: int, owner: str, step: int) -> Any:
        request = fake_request(policy.requirements, session, step=step)
        return batcher.ask(policy, request, reset=step == 0, owner=owner)

    with ThreadPoolExecutor(3) as threads:
        threads.submit(ask, 9, "other", 1)
        assert began.wait(30)
        lost = threads.submit(ask, 3, "lost", 5)
        assert eventually(lambda: batcher._inbox.qsize() == 1)
        new = threads.submit(ask, 3, "new", 0)
        assert eventually(lambda: batcher._inbox.qsize() == 2)
        go_on.set()
    assert "another worker" in str(lost.exception())
    assert new.result().chunk is STEP
    assert policy.log == [("act", 9), ("reset", 3), ("act", 3)]


def test_closing_ends_what_is_open_and_refuses_what_comes_later() -> None:
    policy = Logged()
    batcher = Batcher(BatchRules())
    request = fake_request(policy.requirements, 3)
    batcher.ask(policy, request, reset=True)
    batcher.close()
    assert policy.log[-1] == ("end", 3)
    with pytest.raises(RemotePolicyError, match="not served any more"):
        batcher.ask(policy, request, reset=True)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class Noticed(Logged):
    """Sets an event at an end."""

    def __init__(self, **requirements: Any) -> None:
        self.ended = threading.Event()
        self.requirements = Requirements(**requirements)
        super().__init__(lambda call, session: self.ended.set() if call == "end" else None)


@pytest.mark.parametrize("limit", [None, 1])
def test_a_service_ends_the_sessions_of_a_worker_that_is_gone(limit: int | None) -> None:
    policy = Noticed(max_sessions=limit)
    with closing(PolicyService(policy, rules=BatchRules())) as service:
        remote = SocketPolicy(service.address, policy.requirements)
        remote.reset(4, "x")
        remote.act([fake_request(policy.requirements, 4)])
        remote.close()  # as the system does it for a process that is killed
        assert policy.ended.wait(30)
        assert policy.log == [("reset", 4), ("act", 4), ("end", 4)]
        if limit is not None:
            assert eventually(lambda: bool(service._free))  # it can serve another worker
        assert run(SocketPolicy(service.address, policy.requirements)).record.length == 3
    assert policy.log[3:] == [("reset", 7), ("act", 7)] * 3 + [("end", 7)]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OwnError("no")], ids=type)
def test_a_served_policy_that_exits_makes_an_error_record_at_once(error: BaseException) -> None:
    policy = Logged(raising("act", error))
    with closing(PolicyService(policy, rules=BatchRules())) as service:
        remote = SocketPolicy(service.address, policy.requirements)
        record = run(remote).record
        assert record.status == "error"
        assert type(error).__name__ in str(record.error)
        assert run(remote, chain=replace(CHAIN, id=8)).record.status == "completed"
    assert policy.log.count(("end", 7)) == policy.log.count(("end", 8)) == 1


def test_an_instance_that_exits_while_it_is_made_is_an_error_of_the_chain() -> None:
    def make() -> Any:
        raise SystemExit("no licence")

    policy = Logged()
    policy.requirements = Requirements(max_sessions=1)
    with closing(PolicyService(policy, make=make, rules=BatchRules())) as service:
        first = SocketPolicy(service.address, policy.requirements)
        assert run(first).record.status == "completed"  # it holds the one instance that there is
        second = SocketPolicy(service.address, policy.requirements)
        assert "no licence" in str(run(second).record.error)
