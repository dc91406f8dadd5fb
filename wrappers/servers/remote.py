"""What all policies behind a server share: a batch is asked at once, and nothing is asked twice."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request, Requirements
from calvin_eval.wrappers.servers.traffic import Traffic


class RemotePolicy(BasePolicy):
    """A policy whose requests go out side by side.

    Args:
        requirements: what the server is shown.
        traffic: counts the calls.
        lanes: most requests at a time.
    """

    def __init__(self, requirements: Requirements, traffic: Traffic, lanes: int) -> None:
        self.requirements = requirements
        self.traffic = traffic
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="server")
        # A batch of which one request failed is asked again, one by one. What the others were
        # answered is kept for that: a server with a memory must not see an observation twice.
        self._kept: dict[int, Chunk | PolicyError] = {}

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session."""
        self._kept.pop(session, None)
        self._forget(session, instruction)

    def end(self, session: int) -> None:
        """Free the session here and, where the protocol has a message for it, at the server.

        A server that cannot be reached is no error of a chain that is over.
        """
        self._kept.pop(session, None)
        with contextlib.suppress(PolicyError):
            self._close(session)

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Ask for every request.

        Raises:
            PolicyError: the server is gone, too slow, or answers with no actions.
        """
        kept = {r.session: self._kept.pop(r.session, None) for r in requests}
        again = {r.session for r in requests if r.attempt}
        known = {s: a for s, a in kept.items() if s in again and a is not None}
        asked = [r for r in requests if r.session not in known]
        answers = dict(zip((r.session for r in asked), self._answers(asked), strict=True)) | known
        failures = [a for a in answers.values() if isinstance(a, PolicyError)]
        if failures and len(requests) > 1:
            self._kept.update(answers)
        if failures:
            raise failures[0]
        return [answers[r.session] for r in requests]  # type: ignore[misc]

    def report(self) -> dict[str, Any]:
        """How the server answered, for the run's profile; JSON can hold it."""
        return self.traffic.report()

    def _answers(self, requests: Sequence[Request]) -> list[Chunk | PolicyError]:
        if len(requests) == 1:
            return [self._answer(requests[0])]
        return list(self._threads.map(self._answer, requests))

    def _answer(self, request: Request) -> Chunk | PolicyError:
        try:
            return self._ask(request)
        except PolicyError as error:
            return error

    @abstractmethod
    def _forget(self, session: int, instruction: str) -> None:
        """Forget a session."""

    @abstractmethod
    def _close(self, session: int) -> None:
        """Tell the server that a session is over; what it raises as PolicyError is ignored."""

    @abstractmethod
    def _ask(self, request: Request) -> Chunk:
        """Ask the server for one request; called in several threads, for different sessions."""


def read_actions(value: object, where: str) -> NDArray[Any]:
    """Actions from a reply, as an array (k, d) of floating numbers; their type is kept.

    Args:
        value: an array or nested lists of shape (d,) or (k, d).
        where: how messages call it.

    Raises:
        PolicyError: it is none of these, or has NaN or infinity in it.
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"{where}: expected numbers, found {str(value)[:200]}") from error
    if found.dtype.kind not in "fiu" or found.ndim not in (1, 2) or not found.size:
        raise PolicyError(
            f"{where}: expected numbers of shape (actions, numbers per action), found "
            f"{found.dtype} of shape {found.shape}"
        )
    rows = np.atleast_2d(found if found.dtype.kind == "f" else found.astype(np.float64))
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise PolicyError(f"{where}: expected finite numbers, found {rows[bad].tolist()}")
    return rows


def read_map(value: object, where: str) -> Mapping[str, Any]:
    """A message that has to be a map with text as keys; raises PolicyError."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PolicyError(f"{where}: expected a map of names, found {str(value)[:200]}")
    return value


LONGEST_WORDS = 1000
"""Characters of a server's own message that are kept."""


def server_words(reply: Mapping[str, Any]) -> str:
    """What a server says of a failure, as far as its reply says anything; empty if it does not."""
    for name in ("error", "message", "detail", "reason"):
        found = reply.get(name)
        if isinstance(found, Mapping):
            found = found.get("message") or found.get("error") or str(dict(found))
        if found:
            return str(found)[:LONGEST_WORDS]
    return ""


def milliseconds(value: object) -> float | None:
    """A duration that a server reports, if it is one."""
    fine = isinstance(value, int | float | np.number) and np.isfinite(value) and value >= 0
    return float(value) if fine else None  # type: ignore[arg-type]
