"""What a recorded run is simulated with: pack, chains, instructions, rules, by their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from calvin_eval.errors import AssetError, UsageError
from calvin_eval.results.header import Header
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.verification import ChainCheck, Deviation
from calvin_eval.rollouts.recorded import (
    chain_ref,
    find_pack,
    simulator_spec,
)
from calvin_eval.rollouts.verify.plan import check_planned
from calvin_eval.rollouts.verify.replaying import ReplaySetup
from calvin_eval.sim.chain_refs import ChainRef
from calvin_eval.sim.chains import Chain, ChainList
from calvin_eval.sim.instructions import PACK, InstructionSet, load_instructions
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.selftest import quick_selftest
from calvin_eval.sim.shifts.language import instruction_of


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where to find what a header names by a hash only; None leaves it to the header's name.

    Attributes:
        assets: `builtin`, `official`, or the path of a checkout.
        chains: the JSON file of the run's own chain list.
        instructions: the file of the run's own instructions.
    """

    assets: str | None = None
    chains: str | None = None
    instructions: str | None = None


@dataclass(kw_only=True)
class ReplayInputs:
    """All that chains are checked against.

    Attributes:
        planned: ids that the run was meant to have.
        ref: the run's chain list by its name.
        pack: the run's assets; the built-in ones if those are not available.
        setup: for the simulation; None if no chain of this run can be simulated here.
        obstacle: why not, and what would help.
        chain_list: the run's own list, if it is available.
        instructions: the run's own, if they are available.
        deviations: of the header from what it says that it was made of.
        notes: what cannot be checked.
    """

    planned: Sequence[int]
    ref: ChainRef
    pack: AssetPack
    setup: ReplaySetup | None = None
    obstacle: str = ""
    chain_list: ChainList | None = None
    instructions: InstructionSet | None = None
    deviations: list[Deviation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the run names by a hash and is not at hand."""
        named = {"chain list": self.chain_list, "instructions": self.instructions}
        return tuple(name for name, found in named.items() if found is None)

    def simulated(self) -> ReplaySetup:
        """What the simulation needs; raises UsageError if no chain can be simulated here."""
        if self.setup is None:
            raise UsageError(
                f"expected a run that can be simulated here, found that {self.obstacle}"
            )
        return self.setup

    def unchecked(self, record: ChainRecord) -> ChainCheck | None:
        """The result of a chain that cannot be checked, with the reason; None if it can be."""
        if record.status == "error":
            reason = "it ended by an error, so there is no verdict to check"
        elif self.setup is None:
            reason = self.obstacle
        else:
            return None
        return ChainCheck(chain=record.chain, status="unchecked", reason=reason)

    def chain(self, record: ChainRecord) -> Chain:
        """What was asked; of a list that is not available, what the record says was asked.

        Raises:
            UsageError: the list has no such chain, or no chain can start in the recorded state.
        """
        if self.chain_list is None:
            return self.ref.chain(record, self.pack)
        if record.chain >= len(self.chain_list):
            raise UsageError(
                f"expected chain ids up to {len(self.chain_list) - 1}, found {record.chain}"
            )
        return self.ref.variant(self.chain_list[record.chain], self.pack)

    def sentences(self, record: ChainRecord, chain: Chain) -> list[str] | None:
        """The instructions of the policy, one sentence per recorded subtask; None if unknown.

        Args:
            record: of the chain.
            chain: what was asked.

        Raises:
            UsageError: there is no sentence for one of them.
        """
        if self.instructions is None:
            return None
        asked = replace(chain, tasks=record.tasks)
        count = min(len(record.subtasks), len(record.tasks))
        return [instruction_of(asked, i, self.instructions) for i in range(count)]


def find_inputs(header: Header, sources: Sources) -> ReplayInputs:
    """Find what a run was made of.

    Raises:
        UsageError, AssetError: a source that was named is not there, or not what the run used.
    """
    pack, obstacle = None, ""
    try:
        pack = find_pack(header, sources.assets)
    except AssetError as error:
        if sources.assets is not None:
            raise
        obstacle = f"its asset pack is needed: {error}"
    inputs = ReplayInputs(
        planned=header.planned,
        ref=chain_ref(header),
        pack=pack or load_pack(),
        obstacle=obstacle,
    )
    _find_chains(inputs, header, sources)
    if pack is not None:
        _find_instructions(inputs, header, sources, pack)
        _find_simulator(inputs, header, pack)
    return inputs


def _find_chains(inputs: ReplayInputs, header: Header, sources: Sources) -> None:
    ref = inputs.ref
    if sources.chains is None and ref.needs_file:
        inputs.notes.append(
            f"whether the chains are those of the list {ref.name!r}, {ref.sha256[:12]}: start "
            "states are taken from the records; name the file by --chain-list"
        )
        return
    try:
        inputs.chain_list = ref.load(inputs.pack, sources.chains)
    except UsageError as error:
        if sources.chains is not None:
            raise
        what = f"chain list {ref.name!r}"
        inputs.deviations.append(Deviation(what=what, expected="the run's own", found=str(error)))
        return
    if deviation := check_planned(header, inputs.chain_list):
        inputs.deviations.append(deviation)


def _find_instructions(
    inputs: ReplayInputs, header: Header, sources: Sources, pack: AssetPack
) -> None:
    name, wanted, rules = header.instructions.name, header.instructions.sha256, header.protocol
    load = partial(
        load_instructions,
        pack_instructions=pack.instructions,
        lines=rules.instruction_lines,
        draw=rules.instruction_draw,
    )
    ours = load(PACK)
    if sources.instructions is None and name != PACK and ours.sha256 != wanted:
        inputs.notes.append(
            f"whether the instructions are those of {name!r}, {wanted[:12]}: name the file by "
            "--instructions"
        )
        return
    named = sources.instructions
    inputs.instructions = ours if named is None else load(named)
    if inputs.instructions.sha256 == wanted:
        return
    if named is not None:
        raise UsageError(
            f"expected the instructions {wanted[:12]} that the run used, found "
            f"{inputs.instructions.sha256[:12]} in {named}"
        )
    inputs.deviations.append(
        Deviation(what="instructions", expected=inputs.instructions.sha256, found=wanted)
    )


def _find_simulator(inputs: ReplayInputs, header: Header, pack: AssetPack) -> None:
    simulator, rules = simulator_spec(header, pack), header.protocol
    if not simulator.deterministic:
        inputs.obstacle = (
            "the run was made with sim.deterministic=false: a chain depends on what ran before it"
        )
        return
    test = quick_selftest(pack, simulator.scene, simulator.revision)  # type: ignore[arg-type]
    if test.outcome == "different":
        inputs.obstacle = f"this machine computes other last bits ({test.message}): use another"
        return
    if rules.budget == "decisions":
        inputs.notes.append(
            "how many decisions were made: the budget counts them, and actions do not show them"
        )
    # Whatever simulator the run used, the own one has the same bits.
    inputs.setup = ReplaySetup(simulator=replace(simulator, backend="calvin_eval"), rules=rules)
