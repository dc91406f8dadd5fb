"""Whether a run had the chains that its configuration selects."""

from __future__ import annotations

from calvin_eval.errors import UsageError
from calvin_eval.results.header import Header
from calvin_eval.results.verification import Deviation
from calvin_eval.sim.chains import ChainList
from calvin_eval.sim.selection import select


def check_planned(header: Header, chain_list: ChainList) -> Deviation | None:
    """Nobody may leave out the chains that went badly.

    Args:
        header: of the run.
        chain_list: the run's own list.
    """
    rules, shard = header.protocol, header.config.shard
    try:
        chains = select(chain_list, rules.num_chains, rules.select, shard)
    except UsageError as error:
        return Deviation(what="planned chains", expected="a selection", found=str(error))
    if tuple(chain.id for chain in chains) == header.planned:
        return None
    return Deviation(
        what="planned chains",
        expected=f"the {len(chains)} that the configuration selects",
        found=f"{len(header.planned)} others",
    )
