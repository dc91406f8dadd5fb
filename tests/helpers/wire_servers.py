"""Policy servers whose every byte a test decides, on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
from waiting import LIMIT
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

Talk = Callable[[ServerConnection], None]


class WireServer:
    """A WebSocket server; `talk` is what it says on every connection."""

    def __init__(self, talk: Talk, port: int = 0) -> None:
        self.talk = talk
        self.connections: list[ServerConnection] = []
        self.headers: list[Any] = []
        self.requests: list[Any] = []  # for `talk` to fill
        self._server = serve(
            self._handle, "127.0.0.1", port, compression=None, max_size=None, ping_interval=None,
            open_timeout=LIMIT,
        )  # fmt: skip
        self.port = self._server.socket.getsockname()[1]
        self.address = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        self.headers.append(connection.request.headers)  # type: ignore[union-attr]
        with contextlib.suppress(ConnectionClosed, OSError, EOFError):
            self.talk(connection)

    def stop(self) -> None:
        for connection in self.connections:
            cut(connection)
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> WireServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def cut(connection: ServerConnection) -> None:
    """Break a connection as a dying process does, without a word."""
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


# openpi's form of arrays, written down from its description and not with our codec.


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_encode)
    return packed


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def unpack(message: Any) -> Any:
    return msgpack.unpackb(message, object_hook=_decode)


def _decode(found: Any) -> Any:
    if b"__ndarray__" in found:
        return np.ndarray(
            buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"]
        )
    if b"__npgeneric__" in found:
        return np.dtype(found[b"dtype"]).type(found[b"data"])
    return found


class OpenpiServer(WireServer):
    """Speaks openpi's protocol as its own server does.

    Args:
        infer: from the decoded observation to the reply.
        metadata: what it says first.
    """

    def __init__(
        self,
        infer: Callable[[dict[str, Any]], Any],
        metadata: Any = None,
        port: int = 0,
    ) -> None:
        self.infer = infer
        self.metadata = {} if metadata is None else metadata
        self.requests: list[dict[str, Any]] = []
        self._busy = threading.Lock()  # one inference at a time, as in its event loop
        super().__init__(self._converse, port)

    def _converse(self, connection: ServerConnection) -> None:
        connection.send(pack(self.metadata))
        for message in connection:
            obs = unpack(message)
            self.requests.append(obs)
            with self._busy:
                started = time.monotonic()
                try:
                    reply = self.infer(obs)
                except Exception as error:
                    connection.send(f"Traceback (most recent call last):\n{error!r}")
                    connection.close(1011, "Internal server error.")
                    return
            if isinstance(reply, bytes | str):
                connection.send(reply)
                continue
            timing = {"infer_ms": 1000 * (time.monotonic() - started)}
            connection.send(pack({**reply, "server_timing": timing}))


# vla-eval's envelope, likewise.


def envelope(kind: str, payload: Any, seq: int) -> bytes:
    packed: bytes = msgpack.packb({"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0})
    return packed


def plain_action(*values: float) -> dict[str, Any]:
    data = np.array(values, np.float32)
    return {
        "actions": {
            "__ndarray__": True,
            "data": data.tobytes(),
            "dtype": "<f4",
            "shape": [len(values)],
        }
    }


def messages(connection: ServerConnection) -> Iterator[dict[str, Any]]:
    """What a client sends in vla-eval's envelope; a hello is answered."""
    for message in connection:
        found = msgpack.unpackb(message)
        if found["type"] == "hello":
            hello = {"harness_version": "0", "protocol_version": 1, "model_server": "Wire"}
            connection.send(envelope("hello", hello, found["seq"]))
        else:
            yield found
