"""The sessions of a policy server's clients: who owns them, and when they end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.batching import Batcher
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.wrappers.policy import BasePolicy
from calvin_eval.wrappers.servers import dialect

MAX_SESSIONS = 4096
"""At a time, of all clients together; a run has one per worker."""
MAX_NAME = 256
"""Characters of a client's name; ours has 32."""
ABSENT_SECONDS = 300.0
"""How long a client may have no connection before its sessions end: it may be connecting again."""

_ASK = {
    dialect.CLIENT: str, dialect.SERIAL: int, dialect.SESSION: int, dialect.RESET: bool,
    dialect.POSITION: int, dialect.STEP: int,
}  # fmt: skip
_END = {dialect.CLIENT: str, dialect.SESSION: int}


@dataclass
class NamedSession:
    """A session that a client named.

    Attributes:
        client: whose it is.
        policy: the instance that serves it.
        serial: of the last request that was answered.
        reply: to it.
    """

    client: str
    policy: BasePolicy
    serial: int = -1
    reply: bytes = b""


class SessionTable:
    """The sessions that clients have named. A session belongs to the client that reset it last.

    Args:
        batcher: what ends sessions at the policy.
        patience: seconds after which the sessions of a client without a connection end.
    """

    def __init__(self, batcher: Batcher, patience: float = ABSENT_SECONDS) -> None:
        self._batcher = batcher
        self._patience = patience
        self._lock = threading.Lock()
        self._sessions: dict[int, NamedSession] = {}
        self._connections: Counter[str] = Counter()
        self._absent: dict[str, float] = {}

    def find(self, flat: Mapping[str, Any], policy: BasePolicy) -> NamedSession:
        """The session that a request names; a new one with a reset.

        Args:
            flat: the request.
            policy: the instance that serves its connection.

        Raises:
            PolicyError: the request is malformed, or the session is not this client's.
        """
        _require(flat, _ASK)
        name, client = flat[dialect.SESSION], flat[dialect.CLIENT]
        with self._lock:
            session = self._sessions.get(name)
            if flat[dialect.RESET] and (session is None or session.client != client):
                if name not in self._sessions and len(self._sessions) >= MAX_SESSIONS:
                    raise PolicyError(
                        f"expected at most {MAX_SESSIONS} sessions at a time: end those that are "
                        "over"
                    )
                session = self._sessions[name] = NamedSession(client, policy)
            if session is None or session.client != client:
                raise PolicyError(
                    f"session {name} is unknown here: expected a reset first. Was the server "
                    "started anew, or does another run use it? Each run needs its own server."
                )
            return session

    def end(self, flat: Mapping[str, Any]) -> None:
        """End the session that a message names, if it is its sender's.

        Raises:
            PolicyError: the message is malformed.
            RemotePolicyError: the policy raised.
        """
        _require(flat, _END)
        self._end(flat[dialect.SESSION], flat[dialect.CLIENT])

    def connected(self, client: str) -> None:
        """A client uses one more connection."""
        with self._lock:
            self._connections[client] += 1
            self._absent.pop(client, None)

    def disconnected(self, clients: Collection[str]) -> None:
        """A connection that these clients used is closed; sessions of clients long gone end."""
        now = time.monotonic()
        with self._lock:
            for client in clients:
                self._connections[client] -= 1
                if not self._connections[client]:
                    del self._connections[client]
                    self._absent[client] = now
            gone = {c for c, since in self._absent.items() if now - since >= self._patience}
            left = [(name, s.client) for name, s in self._sessions.items() if s.client in gone]
            for client in gone:
                del self._absent[client]
        for name, client in left:
            with contextlib.suppress(RemotePolicyError):
                self._end(name, client)

    def _end(self, name: int, client: str) -> None:
        with self._lock:
            session = self._sessions.get(name)
            if session is None or session.client != client:
                return
            del self._sessions[name]
        self._batcher.end(session.policy, name, owner=client)


def _require(flat: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise a PolicyError unless these keys have values of these types, numbers from 0 up."""
    wrong = [key for key, kind in kinds.items() if type(flat.get(key)) is not kind]
    places = (dialect.SESSION, dialect.POSITION, dialect.STEP)
    wrong += [key for key in places if key in kinds and key not in wrong and flat[key] < 0]
    if len(flat.get(dialect.CLIENT) or "") > MAX_NAME:
        wrong.append(dialect.CLIENT)
    if wrong:
        raise PolicyError(f"expected {', '.join(wrong)} of another form")
