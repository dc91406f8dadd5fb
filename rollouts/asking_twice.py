"""Whether a policy decides the same when it is asked the same again, later and in another order.

It is asked for the first decisions of some chains, and then for the same ones, the last chain
first. What a chain leaves behind in the policy, and what it draws from elsewhere than the seeds,
shows as a difference. Images and states are made up, so no simulator is needed; the sentences are
the run's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calvin_eval.results.header_sections import ReproducibilityFacts
from calvin_eval.rollouts.policy_errors import PolicyLostError, policy_code
from calvin_eval.rollouts.worker import PolicyLink, connect, connect_socket
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.shifts.language import instruction_of
from calvin_eval.wrappers.policy import BasePolicy, Chunk
from calvin_eval.wrappers.testing import fake_request

CHAINS, DECISIONS = 2, 3
"""How many chains a policy is asked about, and for how many decisions of each."""


def ask_twice(
    link: PolicyLink, chains: Sequence[Chain], instructions: InstructionSet, patience: float
) -> ReproducibilityFacts:
    """Ask a policy for the first decisions of the first chains, twice.

    Args:
        link: where it is: at an address, or in this process.
        chains: of the run, in their order.
        instructions: of the run.
        patience: seconds that one answer may take.

    Raises:
        PolicyLostError: its process died, or does not answer.
    """
    asked = chains[:CHAINS]
    with _connected(link, patience) as policy:
        try:
            first = {chain.id: _decisions(policy, chain, instructions) for chain in asked}
            again = {chain.id: _decisions(policy, chain, instructions) for chain in asked[::-1]}
        except PolicyLostError:
            raise
        except Exception as error:  # made-up images are nothing that a policy has to understand
            what = str(error).strip().splitlines() or [type(error).__name__]
            found = f"it could not be asked about made-up images: {what[-1]}"
            return ReproducibilityFacts(reproducible=None, decisions=0, found=found)
    count = sum(map(len, first.values()))
    different = [chain for chain in first if not _same(first[chain], again[chain])]
    if not different:
        found = f"asked twice for {count} decisions, it gave the same"
        return ReproducibilityFacts(reproducible=True, decisions=count, found=found)
    named = ", ".join(map(str, different))
    found = f"asked twice for {count} decisions, it gave others (sessions {named})"
    return ReproducibilityFacts(reproducible=False, decisions=count, found=found)


@contextlib.contextmanager
def _connected(link: PolicyLink, patience: float) -> Iterator[BasePolicy]:
    if link.inline is not None and link.inline.elsewhere:
        with link.inline.visited(patience) as guest:
            yield guest
        return
    if link.address is None:
        yield connect(link)
        return
    policy = connect_socket(link, patience)
    try:
        yield policy
    except PolicyLostError:
        policy.close()
        raise
    finally:
        policy.leave()


def _decisions(policy: BasePolicy, chain: Chain, instructions: InstructionSet) -> list[Chunk]:
    """The first decisions of a chain's first subtask."""
    instruction = instruction_of(chain, 0, instructions)
    needs, chunks = policy.requirements, list[Chunk]()
    step = frames = 0
    try:
        with policy_code():
            policy.reset(chain.id, instruction)
        while len(chunks) < DECISIONS:
            request = fake_request(needs, chain.id, step=step, frames=frames)
            with policy_code():
                (chunk,) = policy.act([replace(request, instruction=instruction)])
            chunks.append(chunk)
            step += len(chunk)
            frames = max(len(chunk) - 1, 0) if needs.every_step else 0
    finally:
        with policy_code():
            policy.end(chain.id)
    return chunks


def _same(one: Any, other: Any) -> bool:
    """Whether two answers are equal to the last bit, whatever they are made of."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
