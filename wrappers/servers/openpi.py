"""openpi's WebSocket protocol: the server is stateless, so any request may take any connection."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from queue import LifoQueue
from typing import Any, ClassVar

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.servers.codec import OPENPI
from calvin_eval.wrappers.servers.connection import (
    Connection,
    LostError,
    ServerError,
    SurplusError,
)
from calvin_eval.wrappers.servers.keys import Keys
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.remote import (
    RemotePolicy,
    milliseconds,
    read_actions,
    read_map,
    server_words,
)
from calvin_eval.wrappers.servers.traffic import Traffic

_ROUNDING_MS = 1.0
"""How much longer than its round trip an inference may seem to take, by two clocks."""
_DOUBT = (
    "{address}: an answer came that nobody asked for. Answers have no numbers in this protocol, so "
    "those before it may have been to other requests: what this chain executed proves nothing."
)


class OpenpiPolicy(RemotePolicy):
    """A policy behind openpi's server, or behind any that speaks as it does.

    Observation stages make what is sent: the images in `rgb_obs` and the vector in `state`.
    The reply's `actions` (horizon, d) go to the action stages whole.

    Args:
        address: of the server.
        options: patience, retries and limits.
        metadata: what the server said when it was recognised; it may say nothing else later.
        keys: the names of what is sent; those of openpi's LIBERO configurations if None.
        requirements: what is rendered; the cameras that have a key, if None.
    """

    lanes = 1
    """openpi's server answers one request at a time: more connections would gain nothing."""

    number: ClassVar[str | None] = None
    """Key of the number that a request has and its answer repeats; openpi has none."""

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        metadata: Mapping[str, Any],
        *,
        keys: Keys | None = None,
        requirements: Requirements | None = None,
    ) -> None:
        lanes = options.connections or self.lanes
        self.keys = keys or Keys()
        seen = requirements or Requirements(rgb=self.keys.cameras)
        super().__init__(seen, Traffic(address), lanes)
        self.address = address
        self.metadata = metadata
        # The one that was used last comes first: the others are only opened when they are needed.
        self._free: LifoQueue[Connection] = LifoQueue()
        self._connections = [
            Connection(address, options, self.traffic, self._greet) for _ in range(lanes)
        ]
        for connection in self._connections:
            self._free.put(connection)
        self._doubted: set[int] = set()
        self._proving = threading.Lock()

    def _forget(self, session: int, instruction: str) -> None:
        """The protocol has no reset: such a server remembers nothing."""

    def _close(self, session: int) -> None:
        """Nor has it an end."""

    def end(self, session: int) -> None:
        """Free the session, once no answer is left over that could have been its own.

        Raises:
            PolicyError: one is, or was: the session got answers to other requests.
        """
        super().end(session)
        for connection in self._connections if self.number is None else ():
            if session in connection.served:
                self._prove(connection)
                connection.served.discard(session)
        if session in self._doubted:
            self._doubted.discard(session)
            raise PolicyError(_DOUBT.format(address=self.address))

    def _prove(self, connection: Connection) -> None:
        """Look for an answer that is left over on a connection, as soon as nobody uses it."""
        others: list[Connection] = []
        with self._proving:  # two that hold what the other waits for would wait for ever
            while (held := self._free.get()) is not connection:
                others.append(held)
        try:
            if connection.is_open:
                connection.expect_nothing_more()
        except LostError:
            pass  # nothing can be said, and nothing more comes
        except SurplusError:
            self._doubt(connection)
        finally:
            for held in (*others, connection):
                self._free.put(held)

    def _doubt(self, connection: Connection) -> None:
        """Whoever was answered on a connection may have got the answers of others."""
        self._doubted |= connection.served
        connection.served.clear()

    def _ask(self, request: Request) -> Chunk:
        if request.session in self._doubted:
            raise PolicyError(_DOUBT.format(address=self.address))
        fields = self._message(request)
        message = OPENPI.pack(fields)
        connection = self._free.get()
        try:
            reply = connection.retry(lambda: self._exchange(connection, message, fields))
        except SurplusError:
            self._doubt(connection)
            raise
        finally:
            self._free.put(connection)
        connection.served.add(request.session)
        return self._chunk(reply)

    def _exchange(
        self, connection: Connection, message: bytes, fields: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        connection.open()
        connection.expect_silence()
        started = time.perf_counter()
        connection.send(message)
        answer = connection.receive(connection.patience)
        seconds = time.perf_counter() - started
        try:
            reply = read_map(OPENPI.unpack(answer), f"{self.address}: reply")
        except PolicyError:
            self.traffic.count("errors")
            connection.drop()
            raise
        if (mismatch := self._mismatch(fields, reply)) is not None:
            connection.refuse(mismatch)
        timing = reply.get("server_timing")
        inferred = milliseconds(timing.get("infer_ms") if isinstance(timing, dict) else None)
        if inferred is not None and inferred > 1000 * seconds + _ROUNDING_MS:
            connection.refuse(
                f"an answer came {1000 * seconds:.1f} ms after its request, and took "
                f"{inferred:.1f} ms to infer: expected the answer to this request, found that to "
                "an earlier one",
                SurplusError,
            )
        connection.fresh = False
        self.traffic.add(seconds, inferred)
        return reply

    def _message(self, request: Request) -> dict[str, Any]:
        return self.keys.message(request.instruction, request.obs)

    def _mismatch(self, message: Mapping[str, Any], reply: Mapping[str, Any]) -> str | None:
        """Why a reply is not the answer to a request; None if it is, as far as can be seen.

        openpi's own replies do not say what they answer.
        """
        if self.number is None or reply.get(self.number) == message[self.number]:
            return None
        return (
            f"expected the answer to request {message[self.number]}, found that to "
            f"{reply.get(self.number)!r}"
        )

    def _chunk(self, reply: Mapping[str, Any]) -> Chunk:
        if "actions" not in reply:
            raise PolicyError(
                f"{self.address}: expected actions in the reply, found the keys "
                f"{', '.join(sorted(reply)) or '(none)'}{_quoted(reply)}"
            )
        return read_actions(reply["actions"], f"{self.address}: actions")

    def _greet(self, connection: Connection) -> None:
        """The server speaks first; after a restart it has to be the same one."""
        found = read_metadata(connection, connection.patience)
        different = sorted(
            key
            for key in {*found, *self.metadata}
            if repr(found.get(key)) != repr(self.metadata.get(key))
        )
        if different:
            connection.drop()
            raise ServerError(
                f"{self.address}: another policy is served there now: its metadata differ from "
                f"those in the run's header in {', '.join(different)}"
            )


class CalvinPolicy(OpenpiPolicy):
    """A policy behind `calvin-eval serve`: the same as if it were here, sessions and all.

    Args:
        address: of the server.
        options: patience, retries and limits.
        metadata: what the server said when it was recognised.
        requirements: of the served policy.
    """

    lanes = 16
    number = dialect.SERIAL

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        metadata: Mapping[str, Any],
        *,
        requirements: Requirements,
    ) -> None:
        if requirements.max_sessions is not None:  # an instance of its own per connection
            options = replace(options, connections=1)
        super().__init__(address, options, metadata, requirements=requirements)
        self._client = uuid.uuid4().hex
        self._serials = itertools.count()
        self._lock = threading.Lock()
        self._new: set[int] = set()

    def _forget(self, session: int, instruction: str) -> None:
        self._new.add(session)

    def _close(self, session: int) -> None:
        """Tell the server, once: it ends the sessions of a client that is gone by itself."""
        with self._lock:
            begun = session not in self._new
            self._new.discard(session)
        if not begun:
            return
        message = OPENPI.pack(dialect.end_message(session, client=self._client))
        connection = self._free.get()
        try:
            connection.open()
            connection.expect_silence()
            connection.send(message)
            read_map(OPENPI.unpack(connection.receive(connection.patience)), self.address)
        finally:
            self._free.put(connection)

    def _message(self, request: Request) -> dict[str, Any]:
        with self._lock:
            serial = next(self._serials)
            reset = request.session in self._new
            self._new.discard(request.session)
        return dialect.request_message(request, client=self._client, serial=serial, reset=reset)

    def _chunk(self, reply: Mapping[str, Any]) -> Chunk:
        if dialect.POSES in reply:
            return dialect.unpack_chunk(reply)
        return super()._chunk(reply)


def _quoted(reply: Mapping[str, Any]) -> str:
    """What a reply without actions says of it, to be put behind a message."""
    said = server_words(reply)
    return f"; the server says: {said}" if said else ""


def read_metadata(connection: Connection, timeout: float) -> Mapping[str, Any]:
    """The server's first message.

    Raises:
        LostError, ServerError: there is none.
    """
    try:
        return read_map(OPENPI.unpack(connection.receive(timeout)), "metadata")
    except (LostError, ServerError):
        raise
    except PolicyError as error:
        connection.drop()
        raise ServerError(f"{connection.address}: expected a server's metadata: {error}") from error
