"""The global random generators of this process: a stream of their own for every subtask.

A policy that draws from Python's, NumPy's or torch's global generators then draws the same,
whatever ran before it or beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.wrappers.policy import Request

_TWISTER = 4 * 624 + 4
"""Bytes of a Mersenne Twister in memory: 624 words and the position."""
_turn = threading.RLock()
"""The generators belong to the process: one stream at a time."""


@dataclass(frozen=True)
class _State:
    """How far the generators have come; None for what is not imported, or not in use.

    NumPy's is the seed while nothing has been drawn since: seeding takes a quarter of the time of
    a state, whose 624 words NumPy copies one by one.
    """

    python: Any
    numpy: Any
    torch: Any
    cuda: Any

    @classmethod
    def now(cls) -> _State:
        torch, cuda = _torch(), _cuda()
        return cls(
            python=random.getstate(),
            numpy=_numpy_state(),
            torch=None if torch is None else torch.get_rng_state(),
            cuda=None if cuda is None else cuda.get_rng_state_all(),
        )

    def restore(self) -> None:
        random.setstate(self.python)
        if isinstance(self.numpy, np.ndarray):
            _seed_numpy(self.numpy)
        else:
            np.random.set_state(self.numpy)
        torch, cuda = _torch(), _cuda()
        if torch is not None and self.torch is not None:
            torch.set_rng_state(self.torch)
        if cuda is not None and self.cuda is not None:
            cuda.set_rng_state_all(self.cuda)


@dataclass
class _Stream:
    """A subtask's stream.

    Attributes:
        position: of the subtask in its chain.
        seeded: whether torch, and CUDA, were in use when they were last seeded for it.
        state: how far it has come; None while it is the one in use.
    """

    position: int
    seeded: tuple[bool, bool]
    state: _State | None = None


class _InUse:
    """Whose stream the generators are at, and what they were before the first one."""

    def __init__(self) -> None:
        self.stream: _Stream | None = None
        self.outside: _State | None = None

    def leave(self) -> None:
        """Keep how far the stream has come, or what was before."""
        if self.outside is None:
            self.outside = _State.now()
        elif self.stream is not None:
            self.stream.state = _State.now()
        self.stream = None

    def put_back(self) -> None:
        """Go back to what was before the first stream."""
        if self.outside is not None:
            self.outside.restore()
        self.stream = self.outside = None


_in_use = _InUse()


class Generators:
    """Gives every session's subtask a stream of the global generators.

    A stream stays in use until another is needed, or its session ends. Then the generators are
    what they were before: a caller's own draws go on.

    Args:
        seed: of the run; the streams depend on it, the session and the position alone. If None,
            nothing is done.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._streams: dict[int, _Stream] = {}

    @contextlib.contextmanager
    def of(self, session: int, position: int, *, fresh: bool = False) -> Iterator[None]:
        """Draw from the stream of a subtask meanwhile.

        Args:
            session: the chain's id.
            position: of the subtask in its chain.
            fresh: whether the stream begins anew, because the subtask does.
        """
        if self._seed is None:
            yield
            return
        with _turn:
            key = (self._seed, session, position)
            stream = self._streams.get(session)
            if stream is None or stream.position != position or fresh:
                _in_use.leave()
                seed_all(*key)
                stream = self._streams[session] = _Stream(position, _used())
            elif stream.state is not None:
                _in_use.leave()
                stream.state.restore()
                stream.state = None
            if stream.seeded != _used():  # torch was imported since
                _seed_torch(_number(np.random.SeedSequence(key).generate_state(2)))
                stream.seeded = _used()
            _in_use.stream = stream
            yield

    @contextlib.contextmanager
    def together(self, requests: Sequence[Request]) -> Iterator[None]:
        """Draw for several sessions at once: from a stream of just this batch.

        One request draws from its own subtask's stream.
        """
        if len(requests) == 1:
            with self.of(requests[0].session, requests[0].position):
                yield
            return
        if self._seed is None:
            yield
            return
        with _turn:
            _in_use.leave()
            seed_all(self._seed, *(n for r in requests for n in (r.session, r.position, r.step)))
            yield

    def forget(self, session: int) -> None:
        """Free what is kept for a session, and put back what was before if nothing is left."""
        with _turn:
            stream = self._streams.pop(session, None)
            if stream is None:
                return
            if _in_use.stream is stream or (_in_use.stream is None and not self._streams):
                _in_use.put_back()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the stream of a seed meanwhile, as a policy that is being constructed does."""
    with _turn:
        before = _State.now()
        seed_all(seed)
        try:
            yield
        finally:
            before.restore()


def seed_all(*key: int) -> None:
    """Seed the global generators of Python, NumPy and torch, if it is imported.

    Args:
        key: numbers from 0 up.
    """
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(_number(words))
    _seed_numpy(words)
    _seed_torch(_number(words))


def _number(words: NDArray[Any]) -> int:
    return int.from_bytes(words[:2].tobytes(), "little") % 2**63


_numpy_fresh: tuple[NDArray[Any], bytes] | None = None
"""What NumPy's generator was last seeded by here, and its memory right after."""


def _seed_numpy(words: NDArray[Any]) -> None:
    global _numpy_fresh
    np.random.seed(words)
    _numpy_fresh = words, _numpy_memory()


def _numpy_state() -> Any:
    """The seed while nothing was drawn since, or else the state.

    A freshly seeded generator has no second normal number in reserve, so that every draw changes
    its memory.
    """
    if _numpy_fresh is not None and _numpy_memory() == _numpy_fresh[1]:
        return _numpy_fresh[0]
    return np.random.get_state(legacy=False)


def _numpy_memory() -> bytes:
    """The words and the position of NumPy's global Mersenne Twister."""
    generator = np.random.mtrand._rand._bit_generator
    if type(generator) is not np.random.MT19937:
        return os.urandom(16)  # somebody put another one there: its draws are not seen here
    return ctypes.string_at(generator.ctypes.state_address, _TWISTER)


def _seed_torch(number: int) -> None:
    """Seed torch's generators, those for CUDA if they are in use.

    `torch.manual_seed` would queue a call for them otherwise, and the queue would grow with every
    subtask.
    """
    torch, cuda = _torch(), _cuda()
    if torch is not None:
        torch.default_generator.manual_seed(number)
    if cuda is not None:
        cuda.manual_seed_all(number)


def _used() -> tuple[bool, bool]:
    return _torch() is not None, _cuda() is not None


def _torch() -> Any:
    """The module, if it is imported, and to its end."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "default_generator") and hasattr(torch, "cuda") else None


def _cuda() -> Any:
    """Its part for CUDA, if that is in use."""
    torch = _torch()
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
