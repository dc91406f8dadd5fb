"""Recorded actions, simulated again: what a demonstrator saw, to show it to a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.protocol import Protocol
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.rollouts.replay import Step, replay
from calvin_eval.sim.chains import Chain, ChainList
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.shifts.language import instruction_of
from calvin_eval.wrappers.builtin.replay import Recording
from calvin_eval.wrappers.check.demonstrations import Demonstration


class _Viewer:
    """One subtask that is simulated as far as somebody looks."""

    def __init__(self, states: Iterator[Step]) -> None:
        self._states = states
        self._now = next(states)

    def observe(
        self, step: int, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """The observation before the action of that step, which is not before the last one."""
        if step < self._now.step:
            raise ValueError(f"expected step {self._now.step} or a later one, found {step}")
        while self._now.step < step:
            self._now = next(self._states)
        return self._now.observe(rgb=rgb, depth=depth)


def replayed(
    env: Simulator,
    recording: Recording,
    chain_list: ChainList,
    instructions: InstructionSet,
    rules: Protocol,
    count: int,
) -> Iterator[Demonstration]:
    """The first subtasks of a recording as demonstrations, each to be used before the next.

    Args:
        env: simulates and draws; closing it is the caller's.
        recording: actions by chain and position of the subtask.
        chain_list: where the recorded chains come from.
        instructions: sentences for their subtasks.
        rules: of the run that the actions were recorded in.
        count: how many subtasks at most.

    Raises:
        UsageError: the recording holds a chain that the list does not.
    """
    for chain_id in sorted({chain for chain, _ in recording}):
        if chain_id >= len(chain_list):
            raise UsageError(
                f"expected a recording of chains of the {chain_list.name} list, 0 to "
                f"{len(chain_list) - 1}; found chain {chain_id}"
            )
        chain = chain_list[chain_id]
        subtasks = _subtasks(recording, chain)[:count]
        count -= len(subtasks)
        steps = replay(env, chain, subtasks, rules)
        for position, states in groupby(steps, key=lambda step: step.position):
            yield Demonstration(
                session=chain_id,
                position=position,
                instruction=instruction_of(chain, position, instructions),
                actions=np.asarray(subtasks[position], np.float64),
                observe=_Viewer(states).observe,
            )
        if count == 0:
            return


def _subtasks(recording: Recording, chain: Chain) -> list[NDArray[Any]]:
    """Actions of a chain's subtasks from the first one on, up to one that was not recorded."""
    found = []
    for position in range(len(chain.tasks)):
        if (actions := recording.get((chain.id, position))) is None:
            break
        found.append(actions)
    return found
