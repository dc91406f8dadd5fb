"""Which protocol a server speaks, by its handshake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calvin_eval.errors import CheckpointError, PolicyError
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.servers.connection import Connection, LostError, ServerError
from calvin_eval.wrappers.servers.openpi import read_metadata
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.starvla import MARKS
from calvin_eval.wrappers.servers.traffic import Traffic
from calvin_eval.wrappers.servers.vla_eval import Channel

PROTOCOLS = ("openpi", "vla_eval", "starvla")
_SILENCE = 2.0  # seconds; openpi's server speaks as soon as the connection is open


@dataclass(frozen=True)
class Greeting:
    """What a server said of itself.

    Attributes:
        protocol: one of `PROTOCOLS`, or "calvin_eval" for a server of ours, which speaks openpi's
            protocol and more.
        metadata: openpi's metadata, or the payload of vla-eval's hello.
    """

    protocol: str
    metadata: Mapping[str, Any]


def recognise(address: str, options: LinkOptions, protocol: str) -> Greeting:
    """Open a connection, learn who is there, and close it.

    openpi's server speaks first; vla-eval's waits for a hello.

    Args:
        address: of the server.
        options: patience, retries and limits; a server that is not up yet is waited for.
        protocol: one of `PROTOCOLS`, or "auto".

    Raises:
        CheckpointError: nobody is there, or somebody who speaks none of the protocols.
    """
    try:
        if protocol == "vla_eval":
            return _hello(address, options)
        metadata = _listen(address, options, patient=protocol in ("openpi", "starvla"))
        if metadata is None:
            found = _hello_or_metadata(address, options)
            if isinstance(found, Greeting):
                return found
            metadata = found
    except PolicyError as error:
        hint = "" if protocol != "auto" else f" ({' or '.join(PROTOCOLS)} was expected)"
        raise CheckpointError(f"{error}{hint}") from error
    if isinstance(metadata.get(dialect.MARK), dict):
        return Greeting("calvin_eval", metadata)
    if protocol == "starvla" or (protocol == "auto" and all(mark in metadata for mark in MARKS)):
        return Greeting("starvla", metadata)
    return Greeting("openpi", metadata)


def _listen(address: str, options: LinkOptions, *, patient: bool) -> Mapping[str, Any] | None:
    """The metadata of openpi; None if the server is silent, unless it is known to be openpi's."""
    connection = Connection(address, options, Traffic(address))
    connection.retry(connection.open)
    try:
        return read_metadata(connection, options.first_timeout if patient else _SILENCE)
    except ServerError as error:
        if patient or not isinstance(error.__cause__, TimeoutError):
            raise
        return None
    except LostError as error:
        raise ServerError(f"{error}, before the server said anything") from error
    finally:
        connection.drop()


def _hello_or_metadata(address: str, options: LinkOptions) -> Greeting | Mapping[str, Any]:
    """What a silent server answers to a hello, or openpi's metadata if it was only slow to speak.

    A busy machine can keep openpi's server silent for longer than we listen; it answers a hello
    with something else, and it speaks first on the next connection, too.
    """
    try:
        return _hello(address, options)
    except PolicyError as error:
        if isinstance(error.__cause__, TimeoutError):  # it does not speak at all
            raise
        try:
            metadata = _listen(address, options, patient=True)
        except PolicyError:
            raise error from None
        assert metadata is not None
        return metadata


def _hello(address: str, options: LinkOptions) -> Greeting:
    # A reply to a hello needs no inference.
    quick = replace(options, first_timeout=min(options.first_timeout, options.timeout))
    channel = Channel(address, quick, Traffic(address))
    try:
        channel.connection.retry(channel.connection.open)
        return Greeting("vla_eval", channel.server_info)
    finally:
        channel.connection.drop()
