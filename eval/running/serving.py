"""A policy server that speaks openpi's protocol, and more of it to those who understand more.

A client that knows openpi's protocol sends one flat map of observations and gets `actions`. Ours
sends, beside that, which session a request belongs to and whether it is reset, so that policies
with a memory are served as they run at home, and when a session is over. A client that names no
sessions has one per connection, which ends with it. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.sync.server import Server, ServerConnection, serve

from calvin_eval.errors import CalvinEvalError, CheckpointError, PolicyError, UsageError
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.running.instances import Instances
from calvin_eval.running.sessions import NamedSession, SessionTable
from calvin_eval.wrappers.loaders import LoadedPolicy
from calvin_eval.wrappers.policy import BasePolicy, Policy, Request, with_defaults
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.servers.codec import OPENPI
from calvin_eval.wrappers.servers.remote import read_map

_log = logging.getLogger(__name__)

_FOREIGN_SESSIONS = 10**6
"""Where the session numbers of clients begin that do not name their sessions."""

_INTERNAL_ERROR = 1011
_TRY_LATER = 1013


@dataclass(frozen=True, kw_only=True)
class ServeRules:
    """Where and for whom a policy is served.

    Attributes:
        host: interface to listen on.
        port: of it; any free one if 0.
        token: what clients must send as `Authorization: Api-Key TOKEN`; nothing if None.
        max_size: bytes of the largest request that is accepted.
        max_connections: connections at a time; more are turned away.
        max_instances: of a policy that serves a limited number of sessions, one per connection
            that has asked for an action.
        batch: when a batch goes to the policy.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    max_size: int = 64 * 2**20
    max_connections: int = 64
    max_instances: int = 8
    batch: BatchRules = field(default_factory=BatchRules)


@dataclass
class _Client:
    """One connection.

    Attributes:
        policy: the instance that serves it; None before the first request.
        session: its session, where it does not name any.
        prompt: the instruction of that session's last request.
        steps: requests since.
        names: of the clients of ours that ask on it; one, as a rule.
    """

    session: int
    policy: BasePolicy | None = None
    prompt: str | None = None
    steps: int = 0
    names: set[str] = field(default_factory=set)


class PolicyServer:
    """Serves a loaded policy until it is closed.

    Args:
        loaded: the policy between its stages.
        make: makes further instances of a policy that serves a limited number of sessions.
        rules: where and for whom.

    Attributes:
        address: for `--ckpt`.

    Raises:
        CheckpointError: the policy needs what cannot be sent.
        UsageError: the address cannot be bound.
    """

    def __init__(
        self, loaded: LoadedPolicy, *, make: Callable[[], Policy], rules: ServeRules
    ) -> None:
        policy = with_defaults(loaded.policy)
        needs = policy.requirements
        if needs.privileged or needs.matrices:
            what = "the simulator's own state" if needs.privileged else "the matrices of cameras"
            raise CheckpointError(
                f"{loaded.description}: it reads {what}, which is not sent to servers: run it "
                "where the simulator is."
            )
        self._needs = policy.requirements
        self._rules = rules
        self._instances = Instances(policy, make, rules.max_instances)
        self._hello = OPENPI.pack(dialect.metadata(loaded.description, policy.requirements))
        self._lock = threading.Lock()
        self._count = 0
        self._batcher = Batcher(rules.batch)
        self._sessions = SessionTable(self._batcher)
        self._open: set[ServerConnection] = set()
        self._server = self._listen()
        host, port = self._server.socket.getsockname()[:2]
        self.address = f"ws://{f'[{host}]' if ':' in host else host}:{port}"

    def _listen(self) -> Server:
        rules = self._rules
        try:
            return serve(
                self._handle,
                rules.host,
                rules.port,
                # No page in a browser, which would send its origin, may talk to the policy.
                origins=[None],
                compression=None,
                max_size=rules.max_size,
                process_request=self._admit,
                ping_interval=None,
            )
        except OSError as error:
            raise UsageError(
                f"expected to listen on {rules.host}:{rules.port}; found: {error.strerror}. "
                "Choose another --host or --port."
            ) from error

    def serve_forever(self) -> None:
        """Answer until `close` is called from another thread, or an exception ends it."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop listening, hang up, and end the inference thread."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            connection.close(1001, "the server was stopped")
        self._server.shutdown()
        self._batcher.close()

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer health checks; let in who has the key."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        token = self._rules.token
        given = request.headers.get_all("Authorization")
        if len(given) > 1:
            return connection.respond(HTTPStatus.BAD_REQUEST, "expected one Authorization\n")
        if token is not None and not hmac.compare_digest(
            "".join(given).encode(errors="replace"), f"Api-Key {token}".encode()
        ):
            wanted = "expected Authorization: Api-Key …\n"
            return connection.respond(HTTPStatus.UNAUTHORIZED, wanted)
        if len(self._open) >= self._rules.max_connections:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    def _handle(self, connection: ServerConnection) -> None:
        try:
            with self._lock:
                self._open.add(connection)
                full = len(self._open) > self._rules.max_connections
            if full:  # they came at the same time
                connection.close(_TRY_LATER, "too many connections")
                return
            self._serve(connection)
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)

    def _serve(self, connection: ServerConnection) -> None:
        connection.send(self._hello)
        with self._lock:
            self._count += 1
            client = _Client(_FOREIGN_SESSIONS + self._count)
        try:
            with self._batcher.client():
                for message in connection:
                    connection.send(self._answer(client, message))
        except (CalvinEvalError, RemotePolicyError) as error:
            # As openpi does it: text is an error, and the end of the connection.
            trace = getattr(error, "trace", str(error))
            _log.warning("%s", trace)
            connection.send(str(error))
            connection.close(_INTERNAL_ERROR, "the error was sent before")
        finally:
            self._dismiss(client)

    def _dismiss(self, client: _Client) -> None:
        """A connection is closed. Its own session ends; those with a name may go on elsewhere."""
        policy, client.policy = client.policy, None
        if policy is not None:
            with contextlib.suppress(RemotePolicyError):
                self._batcher.end(policy, client.session, owner=client.session)
        self._sessions.disconnected(client.names)
        if policy is not None:
            self._instances.give_back(policy)

    def _answer(self, client: _Client, message: str | bytes) -> bytes:
        """The reply to one request.

        Raises:
            PolicyError: it is no request, or not one that the policy can serve.
            RemotePolicyError: the policy raised.
        """
        if isinstance(message, str):
            raise PolicyError("expected a binary message, found text")
        started = time.perf_counter()
        flat = read_map(OPENPI.unpack(message), "request")
        if flat.get(dialect.END) is True:
            self._sessions.end(flat)
            return OPENPI.pack({})
        if client.policy is None:
            client.policy = self._instances.take()
        policy = client.policy
        session = self._named(client, policy, flat)
        if session is not None and session.serial == flat[dialect.SERIAL]:
            return session.reply  # it was answered, and the answer was lost on the way
        request, reset = self._request(client, flat)
        owner = client.session if session is None else session.client
        answer = self._batcher.ask(policy, request, reset=reset, owner=owner)
        chunk = dialect.pack_chunk(answer.chunk)
        if session is None and dialect.POSES in chunk:
            raise PolicyError(
                "this policy returns absolute poses, which openpi's protocol has no form for: "
                "ask it with calvin-eval"
            )
        timing = {"infer_ms": 1000 * answer.seconds}
        total = {"infer_ms": 1000 * (time.perf_counter() - started)}
        echo = {} if session is None else {dialect.SERIAL: flat[dialect.SERIAL]}
        reply = OPENPI.pack({**chunk, **echo, "policy_timing": timing, "server_timing": total})
        if session is not None:
            session.serial, session.reply = flat[dialect.SERIAL], reply
        return reply

    def _named(
        self, client: _Client, policy: BasePolicy, flat: Mapping[str, Any]
    ) -> NamedSession | None:
        """The session that the request names; None if it names none."""
        if dialect.SESSION not in flat:
            return None
        session = self._sessions.find(flat, policy)
        if session.client not in client.names:
            client.names.add(session.client)
            self._sessions.connected(session.client)
        return session

    def _request(self, client: _Client, flat: Mapping[str, Any]) -> tuple[Request, bool]:
        """A request as the policy gets it, and whether it is reset first."""
        needs = self._needs
        prompt = flat.get(dialect.PROMPT)
        if not isinstance(prompt, str):
            raise PolicyError(f"expected text under {dialect.PROMPT!r}, found {prompt!r}")
        frames = flat.get(dialect.FRAMES, [])
        if not isinstance(frames, list):
            raise PolicyError(f"expected a list under {dialect.FRAMES!r}")
        if dialect.SESSION in flat:
            session, reset = flat[dialect.SESSION], flat[dialect.RESET]
            position, step = flat[dialect.POSITION], flat[dialect.STEP]
        else:
            reset = client.prompt != prompt or flat.get(dialect.RESET) is True
            client.steps = 0 if reset else client.steps + 1
            client.prompt = prompt
            session, position, step = client.session, 0, client.steps
        request = Request(
            session=session,
            instruction=prompt,
            position=position,
            step=step,
            obs=dialect.unflatten(flat, needs),
            frames=tuple(
                dialect.unflatten(read_map(frame, dialect.FRAMES), needs) for frame in frames
            ),
            executed=dialect.read_executed(flat, needs, step),
        )
        return request, reset
