"""Tells the user's Ctrl-C from a `KeyboardInterrupt` that a policy's own code raises.

SIGTERM, which SLURM, Docker and systemd send, and SIGHUP of a closed terminal ask for the
same as Ctrl-C. Inside `ending_signals`, which the command line opens, all three raise
`KeyboardInterrupt` in the main thread.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

ASKING_TO_END = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class UserInterrupt(KeyboardInterrupt):
    """The user's Ctrl-C, inside `marked_interrupts`."""


@contextmanager
def ending_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do in the body what Ctrl-C does, unless they are ignored or taken."""
    with _handling(signal.default_int_handler, instead_of=(signal.SIG_DFL,)):
        yield


@contextmanager
def marked_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise `UserInterrupt` in the body, where Python's own handler is in place."""
    with _handling(_raise, instead_of=(signal.default_int_handler,)):
        yield


@contextmanager
def heard_interrupts(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call a handler at Ctrl-C in the body, and at the signals that stand for it."""
    with _handling(handler, instead_of=(signal.default_int_handler,), always=signal.SIGINT):
        yield


@contextmanager
def _handling(
    handler: Callable[[int, Any], Any], *, instead_of: tuple[Any, ...], always: int | None = None
) -> Iterator[None]:
    """Another handler for the signals that have one of these now; only in the main thread."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for kind in ASKING_TO_END:
            if kind == always or signal.getsignal(kind) in instead_of:
                before[kind] = signal.signal(kind, handler)
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)


def is_users(error: BaseException) -> bool:
    """Whether an exception is, or may be, the user's wish to stop.

    Ctrl-C reaches the main thread only, and there only where it is not ignored; a plain
    `KeyboardInterrupt` in any other place, or inside `marked_interrupts`, was raised by code.
    """
    if not isinstance(error, KeyboardInterrupt) or isinstance(error, UserInterrupt):
        return isinstance(error, UserInterrupt)
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, _raise)


def _raise(number: int, frame: object) -> NoReturn:
    raise UserInterrupt
