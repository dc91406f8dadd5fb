"""Recorded actions, simulated again: what a demonstrator saw, to show it to a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.sim.chains import ChainList
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.wrappers.builtin.replay import Recording
from calvin_eval.wrappers.check.demonstrations import Demonstration


class Tape:
    """One subtask that is simulated as far as somebody looks.

    Args:
        env: the simulator, in the state in which the subtask begins.
        actions: (T, 7) relative actions.
    """

    def __init__(self, env: Simulator, actions: NDArray[Any]) -> None:
        self._env = env
        self._actions = actions
        self._taken = 0

    def observe(
        self, step: int, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """The observation before the action of that step, which is not before the last one."""
        if not self._taken <= step <= len(self._actions):
            raise ValueError(f"step {step} after step {self._taken} of {len(self._actions)}")
        for action in self._actions[self._taken : step]:
            self._env.advance(action)
        self._taken = step
        return self._env.observe(rgb=rgb, depth=depth)

    def finish(self) -> None:
        """Take the remaining actions."""
        self.observe(len(self._actions))


def replayed(
    env: Simulator,
    recording: Recording,
    chain_list: ChainList,
    instructions: InstructionSet,
    count: int,
) -> Iterator[Demonstration]:
    """The first subtasks of a recording as demonstrations, each to be used before the next.

    Args:
        env: simulates and draws; closing it is the caller's.
        recording: actions by chain and position of the subtask.
        chain_list: where the recorded chains come from.
        instructions: sentences for their subtasks.
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
        env.start(chain.robot_obs, chain.scene_obs)
        for position, task in enumerate(chain.tasks):
            actions = recording.get((chain_id, position))
            if actions is None or count == 0:
                break
            count -= 1
            tape = Tape(env, actions)
            yield Demonstration(
                session=chain_id,
                position=position,
                instruction=instructions.text(task, chain_id, position),
                actions=np.asarray(actions, np.float64),
                observe=tape.observe,
            )
            tape.finish()
        if count == 0:
            return
