"""How a server is reached: its address, patience, retries and limits, as a user may set them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.elsewhere import SERVERS

TOKEN_VARIABLE = "CALVIN_EVAL_TOKEN"


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """The part of `policy.options` that every protocol has.

    Attributes:
        timeout: seconds that an answer may take.
        first_timeout: the same for the first answer on a new connection, when a server may have
            to compile its model.
        connect_timeout: seconds that opening a connection may take.
        retries: times that a lost or refused connection is opened again.
        backoff: seconds before the first of these retries; doubled each time, at most 30.
        max_size: bytes of the largest message that is accepted.
        connections: most connections at once; None leaves it to the protocol.
        token_env: the environment variable that holds the server's key, if there is one; the key
            itself is never stored.
    """

    timeout: float = 60.0
    first_timeout: float = 300.0
    connect_timeout: float = 10.0
    retries: int = 5
    backoff: float = 0.5
    max_size: int = 64 * 2**20
    connections: int | None = None
    token_env: str = TOKEN_VARIABLE

    def headers(self) -> dict[str, str]:
        """What is sent with the opening request, in openpi's form of an API key."""
        token = os.environ.get(self.token_env)
        return {"Authorization": f"Api-Key {token}"} if token else {}

    def pause(self, attempt: int) -> float:
        """Seconds before the retry of that number, from 0."""
        return float(min(self.backoff * 2.0**attempt, 30.0))


LINK_OPTIONS = tuple(entry.name for entry in fields(LinkOptions))


def read_link(options: Mapping[str, Any]) -> LinkOptions:
    """The link's part of a policy's options.

    Raises:
        UsageError: a value that cannot be meant.
    """
    given = {name: options[name] for name in LINK_OPTIONS if name in options}
    for name, value in given.items():
        whole = name in ("retries", "max_size", "connections")
        low = 0 if name in ("retries", "backoff") else 1 if whole else 1e-3
        if name == "token_env":
            if not isinstance(value, str):
                raise UsageError(f"expected policy.options.token_env=NAME, found {value!r}")
        elif not (name == "connections" and value is None):
            check_number(name, value, low, whole=whole)
    return LinkOptions(**given)


def check_number(name: str, value: object, low: float, *, whole: bool) -> None:
    """Raise a UsageError unless an option is a number, or a whole number, from `low` up."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= low:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"expected policy.options.{name} to be {kind} from {low} up; "
                         f"found {value!r}")  # fmt: skip


def check_protocol(source: Source, only: str, address: str) -> None:
    """Raise UnknownNameError for another protocol than the only one that an address can have."""
    if (named := source.options.get("protocol", only)) != only:
        raise UnknownNameError(f"policy.options.protocol of {address}", named, (only,))


def check_address(address: str, schemes: Collection[str] = ("ws", "wss")) -> str:
    """A server's address, if it is one.

    Args:
        address: as the user wrote it.
        schemes: that it may have.

    Raises:
        CheckpointError: it is not, or it holds a password, which a run would store.
    """
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in schemes or not parts.hostname or port == -1:
        raise CheckpointError(f"{address}: expected {SERVERS}.")
    if parts.username is not None or parts.password is not None:
        raise CheckpointError(
            f"{parts.scheme}://…@{parts.hostname}: expected an address without user and password, "
            f"since a run stores it. Put the key into the environment variable {TOKEN_VARIABLE}."
        )
    return address
