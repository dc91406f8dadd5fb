"""The connection to a Ray cluster; importing this module does not import Ray."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.extras import require
from calvin_eval.sim.builds import installed_builds

_PACKAGES = ("calvin-eval", "numpy")
_CONNECT_SECONDS = 10.0
_FOLDERS = ("rollouts", "sim", "wrappers")  # whose code can change a record


def connect(address: str | None) -> None:
    """Connect this process to a cluster that runs already; nothing happens if it is connected.

    The connection stays until the process ends or calls `ray.shutdown`.

    Args:
        address: HOST:PORT, or `auto` (also None) for the cluster of this machine or of the
            variable RAY_ADDRESS.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: no cluster answers.
    """
    require_ray()
    ray: Any = import_module("ray")  # untyped: its hints know less than its documentation
    if ray.is_initialized():
        return
    named = os.environ.get("RAY_ADDRESS", "auto") if address in (None, "auto") else address
    try:
        _require_listener(named)
        ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"engine=ray: expected a running cluster at {named}, found none: {reason}. Start one "
            "with `ray start --head` on one node and `ray start --address=HOST:6379` on the "
            "others, and name it by engine.address=HOST:6379."
        ) from error


def require_ray() -> None:
    """Raise a MissingExtraError unless Ray is installed here."""
    require("ray", "engine=ray", "Every node needs it.")


def _require_listener(address: str) -> None:
    """Raise OSError or ValueError if nobody listens there: Ray itself would try for ever."""
    if address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("the address is not HOST:PORT")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def cluster_resources(name: str) -> int:
    """How many CPUs or GPUs the cluster has, in use or not.

    Args:
        name: `CPU` or `GPU`.
    """
    ray: Any = import_module("ray")
    resources: dict[str, Any] = ray.cluster_resources()
    return int(resources.get(name, 0))


@cache
def software() -> tuple[tuple[str, str], ...]:
    """What has to be the same on all nodes, lest a record depend on where its chain ran.

    Names with versions, and with a hash of our own code: two checkouts of one version may differ.
    """
    versions = [(name, metadata.version(name)) for name in _PACKAGES]
    versions += [(build.distribution, build.version) for build in installed_builds()]
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return (*versions, ("calvin-eval's code", digest.hexdigest()[:12]))


def require_software(expected: tuple[tuple[str, str], ...]) -> None:
    """Raise UsageError, naming what differs, unless this is the software here."""
    found = dict(software())
    different = [
        f"{name} {version} where the run was started, {found.get(name, 'not installed')} here"
        for name, version in expected
        if found.get(name) != version
    ]
    if different:
        raise UsageError(
            f"expected the same software on every node, found {'; '.join(different)}. Install the "
            "same versions everywhere."
        )
