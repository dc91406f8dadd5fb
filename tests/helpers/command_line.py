"""Calls of commands with what they write to stdout and to stderr kept apart."""

from __future__ import annotations

import inspect
from typing import Any

from click.testing import CliRunner


def runner(**settings: Any) -> CliRunner:
    """A CliRunner whose results have `stdout` without `stderr`, as click 8.2 does unasked."""
    older = "mix_stderr" in inspect.signature(CliRunner).parameters
    return CliRunner(**settings, **({"mix_stderr": False} if older else {}))
