"""Everything in the caller's own process: slow, but a debugger sees the policy and the world."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.rollouts.engine import FaultRules, Watcher
from calvin_eval.rollouts.hosts import PolicyHost
from calvin_eval.rollouts.interrupts import marked_interrupts
from calvin_eval.rollouts.worker import Assignment, connect
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack


class InlineEngine:
    """Runs chains one after another in the caller's process; an `Engine`.

    Args:
        faults: only `max_errors` applies; nothing can be retried or timed out in one process.
    """

    interrupted = False

    def __init__(self, faults: FaultRules) -> None:
        self._faults = faults

    def run(
        self,
        chains: Sequence[Chain],
        assign: Callable[[int], Assignment],
        hosts: Sequence[PolicyHost],
        watcher: Watcher,
    ) -> None:
        """Run chains, see `Engine.run`."""
        assignment = assign(0)
        env = assignment.simulator.build()
        current = chains[0]
        runner = ChainRunner(
            env,
            TaskOracle(load_pack(assignment.simulator.assets, verify=False)),
            connect(assignment.policy),
            instructions=assignment.instructions,
            rules=assignment.rules,
            on_step=lambda position: watcher.progress(0, current.id, position, 1),
        )
        errors = 0
        with contextlib.closing(env), marked_interrupts():
            for current in chains:
                outcome = runner.run(current).quoting(hosts[0].printed())
                watcher.finished(0, outcome, outcome.seconds["policy"])
                errors += outcome.record.status == "error"
                if errors == self._faults.max_errors or watcher.done:
                    return

    def close(self) -> None:
        """Nothing is left open."""
