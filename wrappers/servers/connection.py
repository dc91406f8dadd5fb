"""One WebSocket to a policy server: opened when needed, dropped when anything is wrong with it."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    PayloadTooBig,
)
from websockets.sync.client import ClientConnection, connect

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.servers.loopback import is_loopback
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.traffic import Traffic

_CLOSING_SECONDS = 1.0  # a server that is busy or gone does not answer a farewell
_LONGEST_TRACE = 4000  # characters of a server's traceback that are kept

ResultT = TypeVar("ResultT")


class ServerError(PolicyError):
    """A server that answered with an error, or with what is no answer: asking again is no help."""


class SurplusError(ServerError):
    """A server that sent more than it was asked for: no answer of its connection can be trusted."""


class LostError(PolicyError):
    """A server that cannot be reached, or that hung up: it may be there again."""


class Connection:
    """A connection that is opened again after a loss.

    Args:
        address: `ws://` or `wss://`.
        options: patience, retries and limits.
        traffic: where calls and losses are counted.
        greet: called with this connection whenever it was opened, before anything else.

    Attributes:
        fresh: whether nothing was inferred on this connection yet.
        served: sessions with answers from this connection that may yet prove to be others'.
    """

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        traffic: Traffic,
        greet: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        self.address = address
        self._options = options
        self._traffic = traffic
        self._greet = greet
        self._socket: ClientConnection | None = None
        self._holder = contextlib.ExitStack()
        self._opened = False
        self.fresh = False
        self.served: set[int] = set()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._socket is not None

    @property
    def patience(self) -> float:
        """Seconds that the next answer may take."""
        return self._options.first_timeout if self.fresh else self._options.timeout

    def retry(self, talk: Callable[[], ResultT]) -> ResultT:
        """Do something that can be done again, as often as the options allow, until it is done.

        Raises:
            LostError: the server was lost at the last attempt, too.
            ServerError: it answered with an error.
        """
        attempt = 0
        while True:
            try:
                return talk()
            except LostError:
                if attempt == self._options.retries:
                    raise
                time.sleep(self._options.pause(attempt))
                attempt += 1

    def open(self) -> None:
        """Connect and greet, unless that is done.

        Raises:
            LostError: nobody is there.
            ServerError: whoever is there refuses.
        """
        if self._socket is not None:
            return
        self._socket = self._holder.enter_context(self._connect())
        self.fresh = True
        self.served.clear()
        self._traffic.count("reconnects" if self._opened else "connections")
        self._opened = True
        self._greet(self)

    def expect_silence(self) -> None:
        """Make sure that no message waits: the next one would be taken for the wrong answer.

        Raises:
            LostError: the connection broke.
            SurplusError: a message came that nobody asked for. The connection is dropped.
        """
        assert self._socket is not None
        try:
            self._socket.recv(timeout=0)
        except TimeoutError:
            return
        except (ConnectionClosed, OSError) as error:
            self.drop()
            raise LostError(f"{self.address}: {_closing(error)}") from error
        self.refuse(
            "a message came that nobody asked for: expected one answer to every request. What "
            "was answered before may belong to another request.",
            SurplusError,
        )

    def expect_nothing_more(self) -> None:
        """Make sure that no answer is left over, not even one that is on its way.

        A server answers a ping behind what it has sent before; one whose inference holds up its
        connections, as openpi's does, behind the answer that it is at.

        Raises:
            LostError, SurplusError: as `expect_silence`.
        """
        assert self._socket is not None
        try:
            self._socket.ping().wait(self.patience)
        except (ConnectionClosed, OSError) as error:
            self.drop()
            raise LostError(f"{self.address}: {_closing(error)}") from error
        self.expect_silence()

    def send(self, message: bytes) -> None:
        """Send one message on the open connection; raises LostError."""
        assert self._socket is not None
        try:
            self._socket.send(message)
        except (ConnectionClosed, OSError) as error:
            self.drop()
            raise LostError(f"{self.address}: {_closing(error)}") from error

    def receive(self, timeout: float) -> bytes:
        """The next message.

        Raises:
            LostError: the connection broke.
            ServerError: no message in time, one that is too large, or text, which is how openpi's
                server sends a traceback. The connection is dropped.
        """
        assert self._socket is not None
        try:
            message = self._socket.recv(timeout)
        except TimeoutError as error:
            self._traffic.count("timeouts")
            self._fail(
                f"no answer within {timeout:g} s; policy.options.timeout (and first_timeout for "
                "the first answer on a connection) sets how long to wait",
                error,
            )
        except (ConnectionClosed, OSError) as error:
            self.drop()
            if _too_big(error):
                self._fail(
                    f"a message of more than {self._options.max_size} bytes; "
                    "policy.options.max_size sets the limit",
                    error,
                )
            raise LostError(f"{self.address}: {_closing(error)}") from error
        if isinstance(message, str):
            self._fail(f"the server failed:\n{message[-_LONGEST_TRACE:]}")
        return message

    def drop(self) -> None:
        """Close the connection; what was under way on it is lost."""
        self._socket = None
        with contextlib.suppress(Exception):  # nothing that goes wrong here matters any more
            self._holder.close()
        self._holder = contextlib.ExitStack()

    def refuse(self, reason: str, kind: type[ServerError] = ServerError) -> NoReturn:
        """Drop the connection, since the server does not keep to the protocol.

        Raises:
            ServerError: always, of the kind that is given.
        """
        self._fail(reason, kind=kind)

    def _fail(
        self,
        reason: str,
        cause: BaseException | None = None,
        kind: type[ServerError] = ServerError,
    ) -> NoReturn:
        self._traffic.count("errors")
        self.drop()
        raise kind(f"{self.address}: {reason}") from cause

    def _connect(self) -> ClientConnection:
        options = self._options
        try:
            return connect(
                self.address,
                compression=None,
                additional_headers=options.headers(),
                proxy=None if is_loopback(urlsplit(self.address).hostname or "") else True,
                open_timeout=options.connect_timeout,
                close_timeout=_CLOSING_SECONDS,
                # A server that infers in its event loop answers no pings meanwhile.
                ping_interval=None,
                max_size=options.max_size,
            )
        except ssl.SSLCertVerificationError as error:
            self._fail(f"its certificate is not trusted: {error}", error)
        except InvalidStatus as error:
            status = error.response.status_code
            if status >= 500:
                raise LostError(f"{self.address}: HTTP status {status}") from error
            self._fail(_refusal(status, options), error)
        except (OSError, EOFError, InvalidMessage) as error:  # TimeoutError is an OSError
            raise LostError(f"{self.address}: nobody answers there: {error}") from error
        except InvalidHandshake as error:
            self._fail(f"expected a WebSocket server: {error}", error)


def _refusal(status: int, options: LinkOptions) -> str:
    if status in (401, 403):
        return (
            f"the server refuses (HTTP status {status}): expected its key in the environment "
            f"variable {options.token_env}"
        )
    return f"expected a WebSocket server, found one that answers with HTTP status {status}"


def _closing(error: Exception) -> str:
    return f"the connection broke: {error or type(error).__name__}"


def _too_big(error: BaseException) -> bool:
    """Whether it was this side that closed, since a message was larger than it accepts."""
    sent = getattr(error, "sent", None)
    return isinstance(error.__cause__, PayloadTooBig) or (sent is not None and sent.code == 1009)
