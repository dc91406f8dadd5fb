"""Ports that tests hand to servers in other processes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that nobody is given by chance, and at which nobody listens yet.

    It is bound here, sharable and not listened to. So Linux hands it out to nobody who asks for any
    port, refuses connections, and lets a server that asks for it by number have it, again and
    again: servers share addresses by SO_REUSEADDR or, as gRPC's do, by SO_REUSEPORT.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, 0))
        port: int = holder.getsockname()[1]
        yield port
