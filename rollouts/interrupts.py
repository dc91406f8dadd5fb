"""Tells the user's Ctrl-C from a `KeyboardInterrupt` that a policy's own code raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserInterrupt(KeyboardInterrupt):
    """The user's Ctrl-C, inside `marked_interrupts`."""


@contextmanager
def marked_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise `UserInterrupt` in the body, where Python's own handler is in place."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
