"""A Ray cluster of two nodes on this machine, which starts however busy the machine is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from ports import reserved_port
from waiting import LIMIT, wait_until

# A busy machine is no lost node: a node that is killed refuses at once, others may be slow.
_PATIENCE = {
    "health_check_timeout_ms": 60_000,
    "agent_register_timeout_ms": 1000 * int(LIMIT),
    "worker_register_timeout_seconds": int(LIMIT),
    "gcs_server_request_timeout_seconds": int(LIMIT),
    "worker_niceness": 0,  # of 15 by default: beside busy processes workers would stand still
}
_AGENT_PORT = "dashboard_agent_listen_port"
_PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", _AGENT_PORT)


class _SlowClock:
    """The module `time` with slow clocks: Ray gives a node 30 of their seconds to start."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() * 30 / LIMIT

    @staticmethod
    def time() -> float:
        return time.time() * 30 / LIMIT


def _with_ports(start_raylet: Callable[..., Any]) -> Callable[..., Any]:
    """Start a raylet that does not wait for its agents to write their ports.

    It ends itself if one of them takes more than 15 seconds. Three ports it takes from its
    arguments; the fourth it reads from a file, which is here before the agent writes it.
    """

    @wraps(start_raylet)
    def start(*args: Any, **options: Any) -> Any:
        given = signature(start_raylet).bind(*args, **options).arguments
        file = Path(given["session_dir"]) / f"{_AGENT_PORT}_{given['node_id']}"
        file.write_text(str(given[_AGENT_PORT]))
        return start_raylet(*args, **options)

    return start


class Nodes:
    """A cluster: the head with one CPU, and a node with one CPU and one GPU that is none.

    Attributes:
        address: of the head.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        from calvin_eval.rollouts.ray.cluster import connect

        self._holder = contextlib.ExitStack()
        arguments = {"num_gpus": 0, "include_dashboard": False, "_system_config": _PATIENCE}
        arguments |= self._node_arguments()
        self._cluster = Cluster(initialize_head=True, head_node_args=arguments)
        self.address = self._cluster.address
        connect(self.address)
        self._second: Any = None
        self.complete()

    def complete(self) -> None:
        """Start the second node, unless it is there."""
        if self._second is None:
            self._second = self._cluster.add_node(num_gpus=1, **self._node_arguments())

    def settle(self) -> None:
        """Complete the cluster, and wait until Ray counts these two nodes and no lost one."""
        import ray

        self.complete()
        wait_until(lambda: ray.cluster_resources().get("CPU") == 2, "Ray counts two nodes")

    def lose_one(self) -> None:
        """Kill the second node."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()
        self._holder.close()

    def _node_arguments(self) -> dict[str, Any]:
        ports = {name: self._holder.enter_context(reserved_port("")) for name in _PORTS}
        return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **ports}


@contextlib.contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A cluster that this process is connected to."""
    from ray._private import services

    with pytest.MonkeyPatch.context() as patch:
        for module in ("ray._private.node", "ray._private.services", "ray.cluster_utils"):
            patch.setattr(f"{module}.time", _SlowClock())
        patch.setattr(services, "start_raylet", _with_ports(services.start_raylet))
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.close()
