"""Errors that end chains: each is said once, and the first chains all ending by one is enough."""

from __future__ import annotations

import re

from calvin_eval.results.schema import ChainRecord

_MOST_SAID = 3
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?")


class ErrorsSeen:
    """Says what ends chains, and whether the first chains of a run all ended by the same error.

    Args:
        limit: how many chains; never enough if None.

    Attributes:
        same: the error that the first `limit` chains all ended by, with no success among them;
            None if there is none.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._chains = 0
        self._kinds: set[str] = set()
        self._only_errors = True
        self.same: str | None = None

    def add(self, record: ChainRecord) -> str | None:
        """Take a chain's record; what is to be said of it, if anything."""
        self._chains += 1
        self._only_errors &= record.status == "error" and record.length == 0
        if record.status != "error":
            return None
        kind = _VARYING.sub("#", record.cause)
        new = kind not in self._kinds and len(self._kinds) < _MOST_SAID
        self._kinds.add(kind)
        if self._chains == self._limit and self._only_errors and len(self._kinds) == 1:
            self.same = record.cause
        return f"chain {record.chain} ended by an error: {record.cause}" if new else None
