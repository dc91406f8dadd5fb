"""What a policy's faults are to the engine: a lost process, or an exception with its traceback."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from calvin_eval.rollouts.interrupts import is_users
from calvin_eval.rollouts.printed import speaking


class PolicyLostError(Exception):
    """The process that holds the policy is gone; the chain can be run again."""


class UnreadableAnswerError(Exception):
    """What a confined policy's process sent is no message of ours; nothing of it ran."""


class RemotePolicyError(Exception):
    """The policy raised, in another process or what would end this one; `trace` says where."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace.strip().splitlines()[-1])
        self.trace = trace


@contextlib.contextmanager
def policy_code() -> Iterator[None]:
    """Let nothing that the policy's code raises end this process, but the user's Ctrl-C.

    What it prints is known for the policy's.

    Raises:
        RemotePolicyError: in place of what is no `Exception`, such as `SystemExit`.
    """
    try:
        with speaking():
            yield
    except Exception:
        raise
    except BaseException as error:
        if is_users(error):
            raise
        raise RemotePolicyError(traceback.format_exc()) from error
