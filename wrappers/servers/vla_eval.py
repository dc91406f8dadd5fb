"""vla-eval's model-server protocol: the server keeps a memory per connection.

Every session has a connection of its own. A new episode is announced at every reset, which is the
only message that empties a server's buffer of planned actions: the flag `episode_restart`, which
vla-eval's own benchmark sends at a change of subtask, is in an observation that such a server
answers from its buffer without looking at it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers.codec import VLA_EVAL
from calvin_eval.wrappers.servers.connection import Connection, LostError, ServerError
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.remote import RemotePolicy, read_actions, read_map
from calvin_eval.wrappers.servers.traffic import Traffic

PROTOCOL_VERSION = 1


class Channel:
    """A connection with vla-eval's envelope around every message.

    Args:
        address: of the server.
        options: patience, retries and limits.
        traffic: counts the calls.
        expected: what the server said when it was recognised; it may say nothing else later.
    """

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        traffic: Traffic,
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        self.connection = Connection(address, options, traffic, self._greet)
        self.server_info: Mapping[str, Any] = {}
        self._traffic = traffic
        self._expected = expected
        self._sequence = 0

    def send(self, kind: str, payload: Mapping[str, Any]) -> int:
        """Send a message; returns its number."""
        self._sequence += 1
        message = {
            "type": kind,
            "payload": payload,
            "seq": self._sequence,
            "timestamp": time.time(),
        }
        self.connection.send(VLA_EVAL.pack(message))
        return self._sequence

    def receive(self, kind: str, number: int, *, since: int | None = None) -> Mapping[str, Any]:
        """The payload of the answer to a message.

        Args:
            kind: what the answer has to be.
            number: of the message.
            since: number of an earlier message whose failure is a failure of this one.

        Raises:
            LostError: the connection broke.
            PolicyError: the server reports an error (the connection stays), answers something
                else or not in time (the connection is dropped).
        """
        where = self.connection.address
        deadline = time.monotonic() + self.connection.patience
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            reply = self._read(self.connection.receive(left), where)
            found, payload = reply["type"], reply["payload"]
            if reply["seq"] < (number if since is None else since):
                continue  # the answer to a message that nobody waits for any more
            if found == "error":
                self._traffic.count("errors")
                raise PolicyError(f"{where}: the server failed: {payload.get('error', payload)}")
            if found == kind and reply["seq"] == number:
                return read_map(payload, f"{where}: {kind}")
            self._broken(
                f"expected {kind!r} with number {number}, found {found!r} with {reply['seq']}"
            )

    def _read(self, message: bytes, where: str) -> Mapping[str, Any]:
        try:
            reply = read_map(VLA_EVAL.unpack(message), f"{where}: message")
            fields = {"type": str, "payload": dict, "seq": int}
            wrong = [name for name, of in fields.items() if not isinstance(reply.get(name), of)]
            if wrong:
                raise PolicyError(f"{where}: a message without {' and '.join(wrong)}")
        except PolicyError:
            self._traffic.count("errors")
            self.connection.drop()
            raise
        return reply

    def _greet(self, connection: Connection) -> None:
        self._sequence = 0
        hello = {
            "harness_version": "calvin-eval",
            "protocol_version": PROTOCOL_VERSION,
            "benchmark": "calvin_eval",
        }
        self.server_info = self.receive("hello", self.send("hello", hello))
        if self._expected is not None and repr(self._expected) != repr(self.server_info):
            self._broken("another policy is served there now: it introduces itself differently")

    def _broken(self, reason: str) -> None:
        self._traffic.count("errors")
        self.connection.drop()
        raise ServerError(f"{self.connection.address}: {reason}")


@dataclass
class _Session:
    """One chain and its connection.

    Attributes:
        announce: whether a new episode has to be announced before the next observation.
        position: index of the subtask that the server saw last; -1 before the first.
        began: when the episode did.
        steps: observations of the episode.
    """

    channel: Channel
    announce: bool = True
    position: int = -1
    began: float = 0.0
    steps: int = 0

    def announce_end(self) -> None:
        """Announce the end of an episode that has begun; raises LostError."""
        if self.channel.connection.is_open and self.steps:
            elapsed = time.monotonic() - self.began
            self.channel.send(
                "episode_end", {"metrics": {}, "steps": self.steps, "elapsed_sec": elapsed}
            )


class VlaEvalPolicy(RemotePolicy):
    """A policy behind vla-eval's model server.

    Observation stages make what is sent: images in `rgb_obs`, and a vector in `state`, which goes
    out under both names that servers look for. What the reply's `actions` hold, one action (d,)
    or a chunk (k, d), goes to the action stages.

    A connection that breaks while a subtask is under way takes the server's memory with it, so
    the chain ends with an error record and is run again by `--resume`; between subtasks the
    connection is opened again.

    Args:
        address: of the server.
        options: patience, retries and limits; `connections` is the most sessions at once. A
            session that ends hands its connection to the next one.
        server_info: what the server said when it was recognised.
        cameras: whose images are sent.
        reset: "subtask" announces an episode at every reset, as CALVIN's protocol has it; "chain"
            only at a chain's first subtask, as vla-eval's own benchmark does.
    """

    lanes = 64

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        server_info: Mapping[str, Any],
        *,
        cameras: tuple[str, ...] = ("static",),
        reset: str = "subtask",
    ) -> None:
        self._most = options.connections or self.lanes
        super().__init__(Requirements(rgb=cameras), Traffic(address), self._most)
        self.address = address
        self.server_info = server_info
        self._options = options
        self._reset = reset
        self._sessions: dict[int, _Session] = {}
        self._free: list[Channel] = []
        self._lock = threading.Lock()

    def _forget(self, session: int, instruction: str) -> None:
        self._begun(session).announce = True

    def _close(self, session: int) -> None:
        """Announce the end of the episode, and keep the connection for another session."""
        with self._lock:
            over = self._sessions.pop(session, None)
        if over is None:
            return
        try:
            over.announce_end()
        finally:
            with self._lock:
                self._free.append(over.channel)

    def _begun(self, session: int) -> _Session:
        """The session with its connection, which is a new one if there is none to be had.

        Raises:
            PolicyError: as many sessions as there may be connections are under way.
        """
        with self._lock:
            found = self._sessions.get(session)
            if found is not None:
                return found
            if len(self._sessions) >= self._most:
                raise PolicyError(
                    f"{self.address}: expected no more than {self._most} sessions at once, since "
                    "each has a connection: use fewer workers, or more connections "
                    "(policy.options.connections)"
                )
            if self._free:
                channel = self._free.pop()
            else:
                channel = Channel(self.address, self._options, self.traffic, self.server_info)
            self._sessions[session] = _Session(channel)
            return self._sessions[session]

    def _known(self, session: int) -> _Session:
        with self._lock:
            found = self._sessions.get(session)
        if found is None:
            raise PolicyError(
                f"{self.address}: session {session} has no connection: expected a reset first"
            )
        return found

    def _ask(self, request: Request) -> Chunk:
        chain = self._known(request.session)
        if chain.announce and (self._reset == "subtask" or request.position <= 0):
            # Nothing that the server remembers is lost yet: a broken connection can be renewed.
            reply = chain.channel.connection.retry(lambda: self._begin(chain, request))
        elif not chain.channel.connection.is_open:
            raise LostError(f"{self.address}: {_AMNESIA}")
        else:
            try:
                reply = self._exchange(chain, request)
            except LostError as error:
                raise LostError(f"{error}; {_AMNESIA}") from error
        chain.announce, chain.position = False, request.position
        chain.steps += 1
        actions = reply.get("actions", reply.get("action"))
        if actions is None:
            raise PolicyError(
                f"{self.address}: expected actions in the reply, found the keys "
                f"{', '.join(sorted(reply)) or '(none)'}"
            )
        return read_actions(actions, f"{self.address}: actions")

    def _begin(self, chain: _Session, request: Request) -> Mapping[str, Any]:
        """Announce an episode and send its first observation."""
        channel = chain.channel
        chain.announce_end()
        chain.steps, chain.began = 0, time.monotonic()
        channel.connection.open()
        task = {
            "name": f"seq_{request.session:04d}",
            "seq_idx": request.session,
            "episode_idx": 0,
            "subtask_idx": request.position,
        }
        start = channel.send("episode_start", {"task": task})
        return self._exchange(chain, request, since=start)

    def _exchange(
        self, chain: _Session, request: Request, *, since: int | None = None
    ) -> Mapping[str, Any]:
        changed = 0 <= chain.position < request.position
        observation = self._observation(request, restart=changed)
        started = time.perf_counter()
        number = chain.channel.send("observation", observation)
        reply = chain.channel.receive("action", number, since=since)
        self.traffic.add(time.perf_counter() - started, None)
        chain.channel.connection.fresh = False
        return reply

    def _observation(self, request: Request, *, restart: bool) -> dict[str, Any]:
        images = {f"rgb_{c}": request.obs["rgb_obs"][f"rgb_{c}"] for c in self.requirements.rgb}
        found: dict[str, Any] = {"images": images, "task_description": request.instruction}
        if "state" in request.obs:
            state = np.asarray(request.obs["state"], np.float32)
            found |= {"states": state, "state": state}
        if "actions" in request.obs:
            found["actions"] = np.asarray(request.obs["actions"], np.float32)
        return found | ({"episode_restart": True} if restart else {})


_AMNESIA = (
    "the server's memory of this subtask is lost with its connection, so the chain cannot go on; "
    "--resume runs it again"
)
