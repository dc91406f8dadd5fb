"""Whether sentences that stand per chain were written for the chains that are run.

A file of such sentences says nothing by itself: with another list every chain would be told what
another one asks for. A bare list of sentences belongs to the official chain list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import Chain, ChainList, is_generated, load_chains
from calvin_eval.sim.instructions import InstructionSet

_HASH = re.compile("[0-9a-f]{12,64}")


def require_own_chains(
    instructions: InstructionSet, chain_list: ChainList, chains: Iterable[Chain]
) -> None:
    """Checks that sentences by chain belong to the chains that are run.

    Chains belong to a list if they ask for the same tasks under the same id; start states may be
    fitted to another scene.

    Args:
        instructions: any set; one with sentences by task fits every list.
        chain_list: of the run.
        chains: those of its chains that are run.

    Raises:
        UsageError: they were written for another list, or for one that is not known.
    """
    if not instructions.by_chain:
        return
    owner = instructions.chain_list
    if _HASH.fullmatch(owner):
        if chain_list.sha256.startswith(owner) or chain_list.unfitted_sha256.startswith(owner):
            return
        raise UsageError(
            f"{_belongs(instructions)}, and this run has the list {chain_list.name!r}, "
            f"{chain_list.sha256[:12]}. {_remedy(chain_list)}"
        )
    if not is_generated(owner) and not Path(owner).exists():
        raise UsageError(
            f"instructions {instructions.name}: expected chain_list to be the name of a list "
            "(official, dev, upstream:N, single:N), the first 12 digits or more of its hash, or "
            f"the path of its file; found {owner!r}"
        )
    own = load_chains(owner)
    for chain in chains:
        asked = own[chain.id].tasks if chain.id < len(own) else ()
        if asked != chain.tasks:
            raise UsageError(
                f"{_belongs(instructions)}, whose chain {chain.id} "
                f"{'asks for ' + ', '.join(asked) if asked else 'does not exist'}; in this run's "
                f"list {chain_list.name!r} it asks for {', '.join(chain.tasks)}. "
                f"{_remedy(chain_list)}"
            )


def _belongs(instructions: InstructionSet) -> str:
    owner = instructions.chain_list
    default = " (as every file that names no other)" if owner == "official" else ""
    return (
        f"instructions {instructions.name}: sentences per chain belong to one chain list, these "
        f"to {owner!r}{default}"
    )


def _remedy(chain_list: ChainList) -> str:
    return (
        "Evaluate that list, take sentences per task, or, if these were written for this run's "
        f"list, say so in the file: {{chain_list: {chain_list.unfitted_sha256[:12]}, "
        "sentences: [...]}"
    )
