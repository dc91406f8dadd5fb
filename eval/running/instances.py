"""The instances of a served policy: as many as connections need, and no more than may be."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.policy_errors import RemotePolicyError
from calvin_eval.wrappers.policy import BasePolicy, Policy, with_defaults

_SPARE = 1  # instances that are kept for the next connection


class Instances:
    """Lends a policy's instances to connections.

    A policy without a limit of sessions has one instance, which serves all. Otherwise each
    connection that asks for an action has one to itself until it is closed.

    Args:
        first: the instance that exists.
        make: makes another one.
        most: instances at a time.
    """

    def __init__(self, first: BasePolicy, make: Callable[[], Policy], most: int) -> None:
        self._shared = first.requirements.max_sessions is None
        self._first, self._free, self._count = first, [first], 1
        self._make, self._most = make, most
        self._lock = threading.Lock()

    def take(self) -> BasePolicy:
        """An instance for a connection.

        Raises:
            PolicyError: all that may be are in use.
            RemotePolicyError: another one cannot be made.
        """
        if self._shared:
            return self._first
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._count >= self._most:
                raise PolicyError(
                    f"all {self._count} instances of the policy are in use, one per connection: "
                    "close a connection, or serve with a larger --max-instances"
                )
            try:
                made = with_defaults(self._make())
            except BaseException as error:
                raise RemotePolicyError(traceback.format_exc()) from error
            self._count += 1
            return made

    def give_back(self, policy: BasePolicy) -> None:
        """A connection is closed: its instance waits for the next one, or is let go."""
        if self._shared:
            return
        with self._lock:
            if len(self._free) < _SPARE:
                self._free.append(policy)
            else:
                self._count -= 1
