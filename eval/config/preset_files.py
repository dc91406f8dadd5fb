"""Preset files of users: how one becomes an option of Hydra's group `policy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import DocumentError, parse_yaml

FOLDER = "policy"
DEFAULT = "default"
_FROM_FILE = "_from_file"


def store_preset(path: Path) -> str:
    """Make a user's file an option of the group `policy`, and return the option's name.

    The file has the form of a packaged preset: sections such as `policy` and `protocol`, and
    `defaults: [NAME]` where it starts from another preset.

    Raises:
        UsageError: it cannot be read, or is no YAML table.
    """
    from hydra.core.config_store import ConfigStore

    try:
        content: Any = parse_yaml(path.read_bytes())
    except (OSError, DocumentError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(f"the preset {path} cannot be read: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("policy", {}), dict):
        raise UsageError(
            f"the preset {path}: expected sections such as policy and protocol, as the packaged "
            "presets have them (docs/presets.md)"
        )
    starts = content.get("defaults", [])
    if not isinstance(starts, list) or not all(isinstance(name, str) for name in starts):
        raise UsageError(
            f"the preset {path}: expected defaults: [NAME, ...], found defaults: {starts!r}"
        )
    policy = {"preset": str(path), **content.get("policy", {})}
    node = {"defaults": [f"{DEFAULT}@{FOLDER}"], **content, "policy": policy}
    ConfigStore.instance().store(group=FOLDER, name=_FROM_FILE, package="_global_", node=node)
    return _FROM_FILE


def check_stages(policy: Mapping[str, Any]) -> None:
    """Raise a UsageError unless options of the policy and of stages are tables, or null.

    Their names and values are checked where stages are built.
    """
    if not isinstance(policy["options"], Mapping):
        raise UsageError(
            f"expected options such as policy.options.NAME=VALUE; found "
            f"policy.options={policy['options']!r}"
        )
    for side in ("observe", "actions"):
        if not isinstance(policy[side], Mapping):
            raise UsageError(
                f"expected stages such as policy.{side}.NAME.OPTION=VALUE; found "
                f"policy.{side}={policy[side]!r}"
            )
        for label, options in policy[side].items():
            if options is not None and not isinstance(options, Mapping):
                raise UsageError(
                    f"expected options such as policy.{side}.{label}.NAME=VALUE, or null to take "
                    f"that stage away; found policy.{side}.{label}={options!r}"
                )
