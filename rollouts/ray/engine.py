"""The engine for a Ray cluster: the local engine's queue, with workers on other machines.

The supervisor of `local` does not care where a worker is: here each is an actor, whose messages a
thread feeds into a pipe that the supervisor listens to as it does to a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, cast

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.hosts import FixedPolicy, PolicyHost
from calvin_eval.rollouts.local import FaultRules, LocalEngine, Watcher, WorkerSlot
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.ray.cluster import cluster_resources
from calvin_eval.rollouts.ray.hosts import RayPolicyHost, describe
from calvin_eval.rollouts.ray.nodes import NodeSimulator, SimulatorActor
from calvin_eval.rollouts.worker import Assignment
from calvin_eval.sim.chains import Chain

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation


class _Line:
    """The driver's end of the line to a worker."""

    def __init__(self, actor: Any, reader: Connection[Any, Any]) -> None:
        self._tell = actor.tell.options(concurrency_group="tell")
        self._reader = reader

    def fileno(self) -> int:
        """Readable when there is something to receive, or when the actor is gone."""
        return self._reader.fileno()

    def send(self, message: object) -> None:
        """Never blocks; that an actor is gone shows when something is received."""
        self._tell.remote(pickle.dumps(message))

    def recv(self) -> Any:
        """The worker's next message; EOFError when it is gone."""
        return self._reader.recv()

    def close(self) -> None:
        """Stop listening."""
        self._reader.close()


class _ActorWorker(Child):
    """A simulator worker in an actor, as the supervisor handles a child process.

    Attributes:
        client: how policy actors know this worker.
    """

    def __init__(self) -> None:
        # One thread for `tell` keeps messages in order. No restarts by Ray: the supervisor has to
        # know that a chain was lost.
        kind = ray.remote(
            num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD",
            concurrency_groups={"tell": 1, "hear": 1},
        )(SimulatorActor)  # fmt: skip
        self.client = uuid.uuid4().hex
        self._actor = kind.remote(os.getcwd(), self.client)
        reader, writer = Pipe(duplex=False)
        self.connection = cast(Any, _Line(self._actor, reader))
        self._death = "it was ended"
        self._ears = threading.Thread(target=self._listen, args=(writer,), daemon=True)
        self._ears.start()

    def _listen(self, writer: Connection[Any, Any]) -> None:
        hear = self._actor.hear.options(concurrency_group="hear")
        with writer:
            try:
                while True:
                    for message in ray.get(hear.remote()):
                        writer.send_bytes(message)
            except OSError:  # nobody listens any more
                return
            except Exception as error:  # the actor is gone, or Ray itself
                self._death = describe(error)

    @property
    def alive(self) -> bool:
        """Whether the actor is there, or still to come."""
        return self._ears.is_alive()

    def exit_report(self) -> str:
        """How the actor was lost."""
        return self._death

    def kill(self) -> None:
        """End the actor at once; a second call does nothing."""
        self.connection.close()
        with contextlib.suppress(Exception):  # gone, or the cluster is
            ray.kill(self._actor, no_restart=True)

    def stop(self, seconds: float = 5.0) -> None:
        """End the actor, and wait a moment for its end."""
        self.kill()
        self._ears.join(seconds)


class RayEngine(LocalEngine):
    """N simulator actors on the cluster that this process is connected to.

    Workers that the cluster has no room for, at first or after a node was lost, start when there
    is room; the others go on meanwhile.

    Args:
        workers: how many.
        faults: what is done about faults.
    """

    def __init__(self, workers: int, faults: FaultRules) -> None:
        super().__init__(workers, faults)
        self._hosts: Sequence[PolicyHost | FixedPolicy] = ()

    def run(
        self,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost | FixedPolicy],
        watcher: Watcher,
    ) -> None:
        """Run the chains, as `LocalEngine.run`.

        Raises:
            UsageError: the policy is an object of this process, which nodes cannot reach.
        """
        if any(host.link.address is not None for host in hosts):
            raise UsageError(
                "engine=ray: expected a policy that other machines can load, found an object of "
                "this process. Name its class by --ckpt, or choose engine=local."
            )
        room = cluster_resources("CPU")
        if self._count > room:
            watcher.note(
                f"{self._count} workers for a cluster of {room} CPUs: the others start when there "
                "is room"
            )
        self._hosts = hosts
        super().run(chains, lambda host: _on_nodes(assign(host)), hosts, watcher)

    def respawn(self, slot: WorkerSlot) -> None:
        """Put a new actor into a slot."""
        host = self._hosts[slot.host]
        if isinstance(host, RayPolicyHost):
            host.forget(cast(_ActorWorker, slot.child).client)
        super().respawn(slot)

    def _spawn(self) -> Child:
        return _ActorWorker()


def _on_nodes(assignment: Assignment) -> Assignment:
    """The same, with what nodes need to see that they are alike."""
    return replace(assignment, simulator=NodeSimulator.of(assignment.simulator))
