"""Whether a run's first subtasks did another task than the one that they were judged by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from calvin_eval.errors import UsageError
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.recorded import chain_ref, find_pack, simulator_spec
from calvin_eval.rollouts.replay import replay
from calvin_eval.shifts import Shifts
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.shifts.chains import variant_of
from calvin_eval.sim.shifts.language import told_task


def did_another(
    folder: RunFolder, chains: Iterable[int], shifts: Shifts, assets: str | None = None
) -> dict[int, bool]:
    """Whether the first subtask of each chain achieved the task that `language=another` names.

    The stored actions are simulated again, without drawing, and the oracle is asked after every
    one of them. A run that was not told that task says how often it is done by chance.

    Args:
        folder: of the run; its records say which chains there are.
        chains: ids of those to look at; others and chains without a first subtask are left out.
        shifts: those of the run that was told another task.
        assets: of the run, where its header's name is not enough, see `find_pack`.

    Raises:
        AssetError: the run's assets are not here.
        UsageError: its chains cannot be made again.
    """
    header, wanted = folder.header(), set(chains)
    if header.config.sim.backend != "calvin_eval":
        raise UsageError("expected a run of our own simulator, found one of calvin_env")
    pack, ref = find_pack(header, assets), chain_ref(header)
    env, oracle = simulator_spec(header, pack).build(), TaskOracle(pack)
    done: dict[int, bool] = {}
    try:
        for record in folder.records():
            if record.chain not in wanted or not record.subtasks:
                continue
            chain = ref.chain(record, pack)
            told = told_task(replace(chain, variant=variant_of(chain.id, shifts)), 0)
            actions = folder.read_actions(record.chain).get(0, [])
            steps = replay(env, chain, [actions], header.protocol, oracle)
            done[record.chain] = any(step.step and step.achieved((told,)) for step in steps)
    finally:
        env.close()
    return done
