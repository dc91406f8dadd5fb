"""Whether a run had the chains that its configuration selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.results.verification import Deviation
from calvin_eval.sim.chains import ChainList
from calvin_eval.sim.selection import select


def check_planned(
    config: Mapping[str, Any], planned: Sequence[int], chain_list: ChainList
) -> Deviation | None:
    """Nobody may leave out the chains that went badly.

    Args:
        config: the run's configuration.
        planned: ids that the header says were planned.
        chain_list: the run's own list.
    """
    protocol, shard = config.get("protocol") or {}, config.get("shard")
    try:
        chains = select(
            chain_list,
            protocol.get("num_chains"),
            protocol.get("select"),
            None if shard is None else str(shard),
        )
        selected = [chain.id for chain in chains]
    except (UsageError, ValueError, TypeError, AttributeError) as error:
        return Deviation(what="planned chains", expected="a selection", found=str(error))
    if selected == list(planned):
        return None
    return Deviation(
        what="planned chains",
        expected=f"the {len(selected)} that the configuration selects",
        found=f"{len(planned)} others",
    )
