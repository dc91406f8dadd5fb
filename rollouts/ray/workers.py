"""Simulator workers as actors on a Ray cluster.

A thread feeds an actor's messages into a pipe, which the supervisor reads as it does the line to
a process of this machine.
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
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.ray.cluster import cluster_resources
from calvin_eval.rollouts.ray.hosts import RayPolicyHost, describe
from calvin_eval.rollouts.ray.nodes import NodeSimulator, SimulatorActor
from calvin_eval.rollouts.slots import RunningWorker
from calvin_eval.rollouts.worker import Assignment

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation


class _ActorLine:
    """The driver's end of the line to an actor, see `slots.Line`."""

    def __init__(self, actor: Any, reader: Connection[Any, Any]) -> None:
        self._tell = actor.tell.options(concurrency_group="tell")
        self._reader = reader

    def fileno(self) -> int:
        """Readable when there is something to receive, or when the actor is gone."""
        return self._reader.fileno()

    def send(self, message: Any, /) -> None:
        """Never blocks; that an actor is gone shows when something is received."""
        self._tell.remote(pickle.dumps(message))

    def recv(self) -> Any:
        """The worker's next message; EOFError when it is gone."""
        return self._reader.recv()

    def close(self) -> None:
        """Stop receiving."""
        self._reader.close()


class ActorWorker:
    """A simulator worker in an actor, see `slots.RunningWorker`.

    Attributes:
        connection: the line to it.
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
        self.connection = _ActorLine(self._actor, reader)
        self._end = "it was ended"
        self._receiver = threading.Thread(target=self._receive, args=(writer,), daemon=True)
        self._receiver.start()

    def _receive(self, writer: Connection[Any, Any]) -> None:
        hear = self._actor.hear.options(concurrency_group="hear")
        with writer:
            try:
                while True:
                    for message in ray.get(hear.remote()):
                        writer.send_bytes(message)
            except OSError:  # the line was closed
                return
            except Exception as error:  # the actor is gone, or Ray itself
                self._end = describe(error)

    def exit_report(self) -> str:
        """How the actor was lost."""
        return self._end

    def kill(self) -> None:
        """End the actor at once; a second call does nothing."""
        self.connection.close()
        with contextlib.suppress(Exception):  # gone, or the cluster is
            ray.kill(self._actor, no_restart=True)

    def stop(self, seconds: float = 5.0) -> None:
        """End the actor, and wait a moment for its end."""
        self.kill()
        self._receiver.join(seconds)


class RayWorkers:
    """Simulator actors on the cluster that this process is connected to, see `slots.Workers`.

    Workers that the cluster has no room for, at first or after a node was lost, start when there
    is room; the others go on meanwhile.

    Args:
        count: how many work side by side.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def check(self, hosts: Sequence[PolicyHost], note: Callable[[str], None]) -> None:
        """Note if the cluster is too small.

        Raises:
            UsageError: the policy is an object of this process, which nodes cannot reach.
        """
        if any(host.link.address is not None for host in hosts):
            raise UsageError(
                "engine=ray: expected a policy that other machines can load, found an object of "
                "this process. Name its class by --ckpt, or choose engine=local."
            )
        room = cluster_resources("CPU")
        if self.count > room:
            note(
                f"{self.count} workers for a cluster of {room} CPUs: the others start when there "
                "is room"
            )

    def spawn(self) -> RunningWorker:
        """Start an actor, now or when there is room for it."""
        return ActorWorker()

    def replace(self, old: RunningWorker, host: PolicyHost) -> RunningWorker:
        """End an actor and start another; its sessions with the policy end."""
        if isinstance(host, RayPolicyHost) and isinstance(old, ActorWorker):
            host.forget(old.client)
        old.kill()
        return self.spawn()

    def adapt(self, assignment: Assignment) -> Assignment:
        """The same, with what nodes need to see that they are alike."""
        return replace(assignment, simulator=NodeSimulator.of(assignment.simulator))
