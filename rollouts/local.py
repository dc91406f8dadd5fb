"""Simulator workers as processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.slots import RunningWorker
from calvin_eval.rollouts.worker import Assignment, worker_environment


class LocalWorkers:
    """Simulator processes, see `slots.Workers`.

    Args:
        count: how many work side by side.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def check(self, hosts: Sequence[PolicyHost], note: Callable[[str], None]) -> None:
        """Accept any policy: all processes are on one machine."""

    def spawn(self) -> RunningWorker:
        """Start a process."""
        return Child("calvin_eval.rollouts.worker", worker_environment(self.count))

    def replace(self, old: RunningWorker, host: PolicyHost) -> RunningWorker:
        """Kill a process and start another; the host sees its connection close."""
        old.kill()
        return self.spawn()

    def adapt(self, assignment: Assignment) -> Assignment:
        """The same assignment."""
        return assignment
