"""Many sessions, one policy: requests are collected and answered in batches.

One thread calls the policy, so that a policy need not be thread-safe and a GPU sees one caller.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.generators import Generators
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.rollouts.printed import speaking
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request

_NOBODY = object()


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """When a batch is sent to the policy.

    Attributes:
        most: requests in one batch.
        wait: seconds that the first request of a batch waits for others, at most as long as the
            policy's last call took: waiting longer cannot pay. A batch goes at once if every
            connected session has asked.
        seed: of the global random generators while the policy is asked, see `Generators`; they
            are left alone if None.
    """

    most: int = 32
    wait: float = 0.01
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """A chunk, and the seconds that the policy took for the batch it came from."""

    chunk: Chunk
    seconds: float
    batch: int


@dataclass
class _Item:
    policy: BasePolicy
    request: Request
    reset: bool
    owner: object
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def session(self) -> tuple[int, int]:
        """The session and the instance of the policy that it is of."""
        return id(self.policy), self.request.session


@dataclass
class _End:
    policy: BasePolicy
    session: int
    done: Future[None] = field(default_factory=Future)


class Batcher:
    """Answers `ask` calls of many threads by as few calls of the policy as possible.

    Requests for different instances of a policy are never mixed in a batch. If a batch raises,
    its requests are tried one by one, so that the fault of one session stays its own. Whatever a
    policy raises, `SystemExit` and `KeyboardInterrupt` included, fails the request and nothing
    else: a signal of the user's reaches the main thread, never this one.

    A session belongs to whoever asked last. When a chain is run again, because its worker was
    lost, what the lost worker still asks or ends does not touch the new one's session.

    Args:
        rules: when a batch goes.
    """

    def __init__(self, rules: BatchRules) -> None:
        self._rules = rules
        self._generators = Generators(rules.seed)
        self._inbox: queue.SimpleQueue[_Item | _End | None] = queue.SimpleQueue()
        self._clients = 0
        self._open: dict[tuple[int, int], tuple[BasePolicy, object]] = {}
        self._closed = False
        self._began: float | None = None
        self._last_call = 0.0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def client(self) -> Iterator[None]:
        """Count a caller while it is connected: full batches need not wait for more."""
        with self._lock:
            self._clients += 1
        try:
            yield
        finally:
            with self._lock:
                self._clients -= 1

    def ask(
        self, policy: BasePolicy, request: Request, *, reset: bool, owner: object = None
    ) -> Answer:
        """The policy's chunk for one request; blocks until its batch is done.

        Args:
            policy: the instance that serves this session.
            request: what it is asked.
            reset: whether the policy is reset for the session first.
            owner: whose session it is from now on.

        Raises:
            RemotePolicyError: the policy raised; the error has its traceback.
        """
        item = _Item(policy, request, reset, owner)
        with self._lock:
            self._require_open()
            self._open[item.session] = policy, owner
            self._inbox.put(item)
        return item.answer.result()

    def end(self, policy: BasePolicy, session: int, *, owner: object = None) -> None:
        """End a session of this owner; blocks until that is done.

        Does nothing if the session is not open, or has another owner by now.

        Raises:
            RemotePolicyError: the policy raised; the error has its traceback.
        """
        item = _End(policy, session)
        key = (id(policy), session)
        with self._lock:
            if key not in self._open or self._open[key][1] != owner:
                return
            self._require_open()
            del self._open[key]
            self._inbox.put(item)
        item.done.result()

    def _require_open(self) -> None:
        if self._closed:
            raise RemotePolicyError("the policy is not served any more: the run is over")

    @property
    def busy_seconds(self) -> float:
        """How long the policy has been at the present call; 0 between calls."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """Stop the inference thread after what was asked before; open sessions end."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (first := self._inbox.get()) is not None:
            found, last = self._collect(first)
            # Ends first: whoever ends a session has nothing else under way, so that a request for
            # the same session is its next owner's.
            for item in found:
                if isinstance(item, _End):
                    self._end(item)
            batch = [item for item in found if isinstance(item, _Item) and self._current(item)]
            for policy in {id(item.policy): item.policy for item in batch}.values():
                self._answer(policy, [item for item in batch if item.policy is policy])
            if last:
                break
        for (_, session), (policy, _) in self._open.items():
            self._end(_End(policy, session))

    def _collect(self, first: _Item | _End) -> tuple[list[_Item | _End], bool]:
        """What is done next, with this first, and whether the batcher was closed meanwhile."""
        batch = [first]
        deadline = time.monotonic() + min(self._rules.wait, self._last_call)
        while len(batch) < self._rules.most:
            left = deadline - time.monotonic()
            complete = len(batch) >= self._clients
            try:
                item = self._inbox.get(block=not complete and left > 0, timeout=max(left, 0))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _current(self, item: _Item) -> bool:
        """Whether whoever asked still owns the session; if not, nobody waits for the answer."""
        with self._lock:
            _, owner = self._open.get(item.session, (None, _NOBODY))
        if owner != item.owner:
            item.answer.set_exception(RemotePolicyError("another worker runs this chain now"))
        return bool(owner == item.owner)

    def _end(self, item: _End) -> None:
        self._began = time.monotonic()
        try:
            with speaking():
                self._generators.forget(item.session)
                item.policy.end(item.session)
        except BaseException:
            item.done.set_exception(RemotePolicyError(traceback.format_exc()))
        else:
            item.done.set_result(None)
        finally:
            self._began = None

    def _answer(self, policy: BasePolicy, items: Sequence[_Item]) -> None:
        # In the order of sessions: a batch must not depend on who asked a microsecond earlier.
        items = sorted(items, key=lambda item: item.request.session)
        most = len(items) if policy.requirements.max_sessions is None else 1
        for start in range(0, len(items), most):
            self._call(policy, items[start : start + most])

    def _call(self, policy: BasePolicy, items: Sequence[_Item]) -> None:
        start = time.perf_counter()
        self._began = time.monotonic()
        try:
            with _without_gradients(), speaking():
                chunks = self._ask(policy, items)
        except BaseException:
            if len(items) > 1:
                for item in items:
                    item.request = replace(item.request, attempt=item.request.attempt + 1)
                    self._call(policy, [item])
                return
            items[0].answer.set_exception(RemotePolicyError(traceback.format_exc()))
            return
        finally:
            self._began = None
        seconds = self._last_call = time.perf_counter() - start
        for item, chunk in zip(items, chunks, strict=True):
            item.answer.set_result(Answer(chunk, seconds, len(items)))

    def _ask(self, policy: BasePolicy, items: Sequence[_Item]) -> list[Chunk]:
        for item in items:
            if item.reset:
                request = item.request
                with self._generators.of(request.session, request.position, fresh=True):
                    policy.reset(request.session, request.instruction)
                item.reset = False
        requests = [item.request for item in items]
        with self._generators.together(requests):
            chunks = policy.act(requests)
        if len(chunks) != len(items):
            raise PolicyError(f"expected {len(items)} chunks from act(), found {len(chunks)}")
        return list(chunks)


def _without_gradients() -> contextlib.AbstractContextManager[Any]:
    """Torch's switch for gradients belongs to a thread, and the caller's is not this one."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.no_grad()
