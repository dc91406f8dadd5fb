"""What an engine is: it runs chains and reports their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from calvin_eval.rollouts.chain import ChainOutcome
from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.worker import Assignment
from calvin_eval.sim.chains import Chain


@dataclass(frozen=True, kw_only=True)
class FaultRules:
    """What is done about faults.

    Attributes:
        retries: times that a chain is tried again after a crash or a hang.
        step_timeout: seconds without a message after which a worker counts as hanging.
        max_errors: error records after which no more chains are begun; never if None.
    """

    retries: int = 2
    step_timeout: float = 600.0
    max_errors: int | None = None


class Watcher(Protocol):
    """Receives what happens in a run."""

    @property
    def done(self) -> bool:
        """Whether enough is known: no more chains have to be begun."""

    def progress(self, worker: int, chain: int, position: int, steps: int) -> None:
        """A worker took steps in a subtask of a chain."""

    def finished(self, worker: int, outcome: ChainOutcome, inference: float) -> None:
        """A chain has its record; called in the thread that runs the engine, one at a time."""

    def note(self, text: str) -> None:
        """Something happened that a reader of the log should know."""


class Engine(Protocol):
    """Runs chains, wherever the simulators are.

    `InlineEngine` simulates in the caller's process; `SupervisedEngine` supervises workers, which
    are processes of this machine (`LocalWorkers`) or actors of a cluster (`RayWorkers`).
    """

    @property
    def interrupted(self) -> bool:
        """Whether the user asked for the end (Ctrl-C) in a run so far."""

    def run(
        self,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost],
        watcher: Watcher,
    ) -> None:
        """Run chains; the watcher gets a record of each, unless the run ends early.

        A run ends early when the watcher is done, after too many errors and after Ctrl-C.

        Args:
            chains: in the order in which they are begun.
            assign: gives what a worker does that uses the host of that number; called again
                whenever a host was replaced.
            hosts: where the policy is; workers are spread over them.
            watcher: receives what happens; an exception that it raises ends the run.

        Raises:
            CalvinEvalError: no chain can run (broken assets, workers that die at once).
            UsageError: the workers cannot reach this policy.
            KeyboardInterrupt: the second Ctrl-C. After the first, the chains in progress are
                finished and `interrupted` is set.
        """

    def close(self) -> None:
        """End the workers, which several runs can share."""
