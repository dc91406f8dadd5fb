"""JSON over HTTP to a policy server: one request, one answer, within bounds of time and size."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.servers.connection import LostError, ServerError
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.remote import LONGEST_WORDS, server_words
from calvin_eval.wrappers.servers.traffic import Traffic

_PIECE = 1 << 16
_NOT_READY = (502, 503, 504)  # what proxies and servers that load say


class HttpEndpoint:
    """One path of a server, to which JSON is posted.

    Args:
        address: `http://` or `https://`, with the path.
        options: patience, retries and limits.
        traffic: where calls and losses are counted.
    """

    def __init__(self, address: str, options: LinkOptions, traffic: Traffic) -> None:
        self.address = address
        self._parts = urlsplit(address)
        self._options = options
        self._traffic = traffic
        self._fresh = True

    def post(self, content: Any) -> Any:
        """The value in the JSON that a server answers with.

        Raises:
            LostError: nobody is there, at the last attempt either.
            ServerError: an error, no answer in time, or one that is no JSON.
        """
        body = json.dumps(content, allow_nan=False).encode()
        attempt = 0
        while True:
            try:
                return self._attempt(body)
            except LostError:
                if attempt == self._options.retries:
                    raise
                time.sleep(self._options.pause(attempt))
                attempt += 1

    def _attempt(self, body: bytes) -> Any:
        started = time.monotonic()
        patience = self._options.first_timeout if self._fresh else self._options.timeout
        try:
            status, answer = self._talk(body, started + patience)
        except TimeoutError as error:
            self._traffic.count("timeouts")
            raise self._failure(
                f"no answer within {patience:g} s; policy.options.timeout (and first_timeout for "
                "the first answer) sets how long to wait"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self._traffic.count("reconnects")
            raise LostError(f"{self.address}: nobody answers there: {error}") from error
        if status in _NOT_READY:
            raise LostError(f"{self.address}: HTTP status {status}")
        value = self._value(status, answer)
        self._fresh = False
        self._traffic.add(time.monotonic() - started, None)
        return value

    def _talk(self, body: bytes, deadline: float) -> tuple[int, bytes]:
        """Status and body of the answer; raises TimeoutError behind the deadline."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(
            self._parts.hostname or "", self._parts.port, timeout=self._options.connect_timeout
        )
        try:
            try:
                connection.connect()
            except TimeoutError as error:  # it may be there later, unlike a slow answer
                raise ConnectionError("no connection in time") from error
            self._wait_until(connection, deadline)
            headers = {"Content-Type": "application/json", **self._options.headers()}
            connection.request("POST", self._parts.path or "/", body, headers)
            reply = connection.getresponse()
            return reply.status, self._read(connection, reply, deadline)
        finally:
            connection.close()

    def _read(
        self,
        connection: http.client.HTTPConnection,
        reply: http.client.HTTPResponse,
        deadline: float,
    ) -> bytes:
        pieces, size = [], 0
        while piece := reply.read(_PIECE):
            size += len(piece)
            if size > self._options.max_size:
                raise self._failure(
                    f"an answer of more than {self._options.max_size} bytes; "
                    "policy.options.max_size sets the limit"
                )
            pieces.append(piece)
            self._wait_until(connection, deadline)
        return b"".join(pieces)

    @staticmethod
    def _wait_until(connection: http.client.HTTPConnection, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:  # it is gone once the answer is complete
            connection.sock.settimeout(left)

    def _value(self, status: int, answer: bytes) -> Any:
        try:
            value = parse_json(answer, most=self._options.max_size, strict=False)
        except DocumentError as error:
            said = answer[:LONGEST_WORDS].decode(errors="replace").strip()
            raise self._failure(
                f"expected JSON, found HTTP status {status} and {said!r} ({error})"
            ) from error
        if status != http.client.OK:
            said = server_words(value) if isinstance(value, dict) else ""
            raise self._failure(f"the server failed (HTTP status {status}): {said or value}")
        if isinstance(value, str):  # OpenVLA's way to say that something went wrong
            raise self._failure(f"the server failed: {value[:LONGEST_WORDS]}")
        return value

    def _failure(self, reason: str) -> ServerError:
        self._traffic.count("errors")
        return ServerError(f"{self.address}: {reason}")
