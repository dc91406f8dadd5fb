"""What a network returned for the actions that were executed since, per session."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from calvin_eval.wrappers.policy import Executed, Request

_PENDING = 2
"""Answers of which nothing is executed yet: the newest, and in a world that goes on while the
policy thinks the one before it."""


class Outputs:
    """Answers as the network gave them, as long as their actions are in the window of the past.

    An answer is known by the request that it is to: position of the subtask, and step in it.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, dict[tuple[int, int], Any]] = {}

    def forget(self, session: int) -> None:
        """Drop the answers of a session: it was reset, or has ended."""
        self._sessions.pop(session, None)

    def keep(self, request: Request, output: Any) -> None:
        """Keep a copy of an answer, and drop those that no window reaches any more."""
        known = self._sessions.setdefault(request.session, {})
        known[request.position, request.step] = copy.deepcopy(output)
        wanted = {done.decision for done in request.executed} | set(list(known)[-_PENDING:])
        self._sessions[request.session] = {at: known[at] for at in known if at in wanted}

    def resolved(self, request: Request) -> Request:
        """The request with every executed action's `raw` as the network returned it."""
        known = self._sessions.get(request.session, {})
        done = tuple(replace(one, raw=_row(one, known)) for one in request.executed)
        return replace(request, executed=done)


def _row(done: Executed, known: dict[tuple[int, int], Any]) -> Any:
    output: Sequence[Any] | None = None if done.decision is None else known.get(done.decision)
    try:
        return None if output is None else output[done.row]
    except (IndexError, KeyError, TypeError):  # its stages made more actions than it returned
        return None
