"""openpi's WebSocket protocol: the server is stateless, so any request may take any connection."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from queue import LifoQueue
from typing import Any

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.servers.codec import OPENPI
from calvin_eval.wrappers.servers.connection import Connection, LostError, ServerError
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.remote import (
    RemotePolicy,
    milliseconds,
    read_actions,
    read_map,
)
from calvin_eval.wrappers.servers.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Where a served configuration looks for what CALVIN shows; None leaves something out.

    The defaults are those of openpi's LIBERO configurations, which CALVIN fine-tunes follow.
    """

    static: str | None = "observation/image"
    gripper: str | None = "observation/wrist_image"
    state: str | None = "observation/state"
    prompt: str | None = "prompt"
    actions: str | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that are sent."""
        named = {"static": self.static, "gripper": self.gripper}
        return tuple(camera for camera, key in named.items() if key is not None)


class OpenpiPolicy(RemotePolicy):
    """A policy behind openpi's server, or behind any that speaks as it does.

    Observation stages make what is sent: the images in `rgb_obs` and the vector in `state`.
    The reply's `actions` (horizon, d) go to the action stages whole.

    Args:
        address: of the server.
        options: patience, retries and limits.
        metadata: what the server said when it was recognised; it may say nothing else later.
        keys: the names of what is sent.
        requirements: what is rendered; the cameras that have a key, if None.
    """

    lanes = 1
    """openpi's server answers one request at a time: more connections would gain nothing."""

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        metadata: Mapping[str, Any],
        *,
        keys: Keys = Keys(),
        requirements: Requirements | None = None,
    ) -> None:
        lanes = options.connections or self.lanes
        seen = Requirements(rgb=keys.cameras) if requirements is None else requirements
        super().__init__(seen, Traffic(address), lanes)
        self.address = address
        self.metadata = metadata
        self.keys = keys
        # The one that was used last comes first: the others are only opened when they are needed.
        self._free: LifoQueue[Connection] = LifoQueue()
        for _ in range(lanes):
            self._free.put(Connection(address, options, self.traffic, self._greet))

    def _forget(self, session: int, instruction: str) -> None:
        """The protocol has no reset: such a server remembers nothing."""

    def _close(self, session: int) -> None:
        """Nor has it an end."""

    def _ask(self, request: Request) -> Chunk:
        fields = self._message(request)
        message, serial = OPENPI.pack(fields), fields.get(dialect.SERIAL)
        connection = self._free.get()
        try:
            reply = connection.retry(lambda: self._exchange(connection, message, serial))
        finally:
            self._free.put(connection)
        return self._chunk(reply)

    def _exchange(
        self, connection: Connection, message: bytes, serial: int | None
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
        if serial is not None and reply.get(dialect.SERIAL) != serial:
            connection.refuse(
                f"expected the answer to request {serial}, found that to "
                f"{reply.get(dialect.SERIAL)!r}"
            )
        connection.fresh = False
        timing = reply.get("server_timing")
        inferred = timing.get("infer_ms") if isinstance(timing, dict) else None
        self.traffic.add(seconds, milliseconds(inferred))
        return reply

    def _message(self, request: Request) -> dict[str, Any]:
        keys, obs = self.keys, request.obs
        message = {
            keys.prompt: request.instruction,
            keys.static: obs["rgb_obs"].get("rgb_static"),
            keys.gripper: obs["rgb_obs"].get("rgb_gripper"),
        }
        if keys.state is not None:
            if "state" not in obs:
                raise PolicyError(
                    f"expected a state to send as {keys.state!r}, found none: let the stage "
                    "proprioception make one, or send none (policy.options.keys.state=null)"
                )
            message[keys.state] = obs["state"]
        if keys.actions is not None:
            if "actions" not in obs:
                raise PolicyError(
                    f"expected executed actions to send as {keys.actions!r}, found none: let the "
                    "stage history stack them (policy.observe.history.keys=[actions])"
                )
            message[keys.actions] = obs["actions"]
        return {key: value for key, value in message.items() if key is not None}

    def _chunk(self, reply: Mapping[str, Any]) -> Chunk:
        if "actions" not in reply:
            raise PolicyError(
                f"{self.address}: expected actions in the reply, found the keys "
                f"{', '.join(sorted(reply)) or '(none)'}"
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
