"""A policy's options from a YAML file, below those that are given one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import parse_yaml

KEY = "policy.arguments"


def with_arguments(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The section `policy` with the file that `arguments` names under its `options`.

    A relative path starts at the current folder. `arguments_sha256` becomes the SHA-256 of the
    file's bytes as hexadecimal text.

    Raises:
        UsageError: the file cannot be read, or is no table of names and values.
    """
    if policy["arguments"] is None:
        return dict(policy)
    path = str(policy["arguments"])
    values, sha256 = _read(path)
    options = merged(values, policy["options"])
    return {**policy, "arguments": path, "arguments_sha256": sha256, "options": options}


def _read(path: str) -> tuple[dict[str, Any], str]:
    try:
        content = Path(path).expanduser().read_bytes()
        values: Any = parse_yaml(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"{KEY}={path} cannot be read: {reason}.") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UsageError(
            f"{KEY}={path}: expected a table of names and values, as `speed: 0.5`, found "
            f"{type(values).__name__}."
        )
    return values, hashlib.sha256(content).hexdigest()


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one: `above` wins, and tables in both are merged in turn."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        result[name] = merged(under, value) if both else value  # type: ignore[arg-type]
    return result
