"""What a recorded run is simulated with: pack, chains, instructions, rules, by their hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calvin_eval.errors import AssetError, RunFolderError, UsageError
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import HEADER
from calvin_eval.results.verification import ChainCheck, Deviation
from calvin_eval.rollouts.chain import Rules
from calvin_eval.rollouts.verify.plan import check_planned
from calvin_eval.rollouts.verify.replaying import ReplaySetup
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chains import (
    DEV_SHA256,
    OFFICIAL_SHA256,
    SHIPPED,
    Chain,
    ChainList,
    load_chains,
)
from calvin_eval.sim.initial_states import initial_robot_obs, initial_scene_obs
from calvin_eval.sim.instructions import PACK, InstructionSet, load_instructions
from calvin_eval.sim.layouts import fit_chain, fit_to_scene
from calvin_eval.sim.packs import SCENES, AssetPack, SceneSpec, load_pack
from calvin_eval.sim.render import RenderInfo
from calvin_eval.sim.selftest import quick_selftest
from calvin_eval.sim.world import REVISIONS

_GENERATED = re.compile(r"upstream:[0-9]{1,5}")
_PACKS = ("builtin", "official")


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
class Stage:
    """All that chains are held against.

    Attributes:
        planned: ids that the run was meant to have.
        setup: for the simulation; None if no chain of this run can be simulated here.
        obstacle: why not, and what would help.
        layout: the scene that start states are fitted to, if they are.
        chain_list: the run's own list, if it is at hand.
        instructions: the run's own, if they are at hand.
        deviations: of the header from what it says that it was made of.
        notes: what cannot be checked.
    """

    planned: Sequence[int]
    setup: ReplaySetup | None = None
    obstacle: str = ""
    layout: SceneSpec | None = None
    chain_list: ChainList | None = None
    instructions: InstructionSet | None = None
    deviations: list[Deviation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def excuse(self, record: ChainRecord) -> ChainCheck | None:
        """Why this chain cannot be checked at all; None if it can."""
        if record.status == "error":
            reason = "it ended by an error, so there is no verdict to check"
        elif self.setup is None:
            reason = self.obstacle
        else:
            return None
        return ChainCheck(chain=record.chain, status="unchecked", reason=reason)

    def chain(self, record: ChainRecord) -> Chain:
        """What was asked; of an unknown list, what the record says was asked.

        Raises:
            UsageError: the list has no such chain, or no chain can start in the recorded state.
        """
        if self.chain_list is not None:
            if record.chain >= len(self.chain_list):
                raise UsageError(
                    f"expected chain ids up to {len(self.chain_list) - 1}, found {record.chain}"
                )
            return self.chain_list[record.chain]
        chain = Chain(
            id=record.chain,
            initial_state=record.initial_state,
            tasks=record.tasks,
            robot_obs=initial_robot_obs(),
            scene_obs=initial_scene_obs(record.initial_state),
        )
        return chain if self.layout is None else fit_chain(chain, self.layout)

    def sentences(self, record: ChainRecord) -> list[str] | None:
        """What the policy was to be told, one sentence per recorded subtask; None if unknown.

        Raises:
            UsageError: there is no sentence for one of them.
        """
        if self.instructions is None:
            return None
        tasks = record.tasks[: len(record.subtasks)]
        return [self.instructions.text(t, record.chain, i) for i, t in enumerate(tasks)]


def set_stage(header: Mapping[str, Any], sources: Sources) -> Stage:
    """Find what a run was made of.

    Raises:
        RunFolderError: the header lacks one of the facts.
        UsageError, AssetError: a source that was named is not there, or not what the run used.
    """
    planned = get(header, list, "chains", "planned")
    stage = Stage(planned=planned)
    pack = _find_pack(stage, header, sources)
    scene = get(header, str, "scene")
    if get(header, dict, "config", "protocol").get("layout") == "scene" and scene in SCENES:
        stage.layout = (pack or load_pack()).scene(scene)
    _find_chains(stage, header, sources)
    if pack is not None:
        _find_instructions(stage, header, sources, pack)
        _find_simulator(stage, header, pack)
    stage.notes.append(
        "whether these actions are the policy's own, and which images it saw: no record can show it"
    )
    return stage


def _find_pack(stage: Stage, header: Mapping[str, Any], sources: Sources) -> AssetPack | None:
    name = get(header, str, "assets", "name")
    wanted = get(header, str, "assets", "fingerprint")
    if sources.assets is None and name not in _PACKS:
        stage.obstacle = (
            f"it needs the asset pack {name!r} with fingerprint {wanted[:12]}: name it by --assets"
        )
        return None
    asked = sources.assets or name
    try:
        pack = load_pack(asked, verify=asked in _PACKS)
    except AssetError as error:
        if sources.assets is not None:
            raise
        stage.obstacle = f"it needs the {name} asset pack: {error}"
        return None
    if pack.fingerprint != wanted:
        stage.obstacle = (
            f"it needs the {name} asset pack with fingerprint {wanted[:12]}, found "
            f"{pack.fingerprint[:12]}: name another by --assets"
        )
        return None
    return pack


def _find_chains(stage: Stage, header: Mapping[str, Any], sources: Sources) -> None:
    name, wanted = get(header, str, "chains", "list"), get(header, str, "chains", "sha256")
    # A file may have any name and hold the official chains: what counts is the hash.
    known = {OFFICIAL_SHA256: "official", DEV_SHA256: "dev"}.get(wanted) or (
        name if _GENERATED.fullmatch(name) else None
    )
    source = sources.chains or known or (name if name in SHIPPED else None)
    if source is None:
        stage.notes.append(
            f"whether the chains are those of the list {name!r}, {wanted[:12]}: start states are "
            "taken from the records; name the file by --chain-list"
        )
        return
    try:
        chain_list = load_chains(source)
        if stage.layout is not None:
            chain_list = fit_to_scene(chain_list, stage.layout)
    except UsageError as error:
        if sources.chains is not None:
            raise
        stage.deviations.append(Deviation(what="chain list", expected="one", found=str(error)))
        return
    if chain_list.sha256 != wanted:
        if sources.chains is not None:
            raise UsageError(
                f"expected the chain list {wanted[:12]} that the run used, found "
                f"{chain_list.sha256[:12]} in {source}"
            )
        stage.deviations.append(
            Deviation(what=f"chain list {name!r}", expected=chain_list.sha256, found=wanted)
        )
    stage.chain_list = chain_list
    get(header, dict, "config", "protocol")
    if deviation := check_planned(get(header, dict, "config"), stage.planned, chain_list):
        stage.deviations.append(deviation)


def _find_instructions(
    stage: Stage, header: Mapping[str, Any], sources: Sources, pack: AssetPack
) -> None:
    name = get(header, str, "instructions", "name")
    wanted = get(header, str, "instructions", "sha256")
    ours = load_instructions(PACK, pack.instructions)
    if sources.instructions is None and name != PACK and ours.sha256 != wanted:
        stage.notes.append(
            f"whether the instructions are those of {name!r}, {wanted[:12]}: name the file by "
            "--instructions"
        )
        return
    named = sources.instructions
    stage.instructions = ours if named is None else load_instructions(named, pack.instructions)
    if stage.instructions.sha256 == wanted:
        return
    if named is not None:
        raise UsageError(
            f"expected the instructions {wanted[:12]} that the run used, found "
            f"{stage.instructions.sha256[:12]} in {named}"
        )
    stage.deviations.append(
        Deviation(what="instructions", expected=stage.instructions.sha256, found=wanted)
    )


def _find_simulator(stage: Stage, header: Mapping[str, Any], pack: AssetPack) -> None:
    scene, revision = get(header, str, "scene"), get(header, str, "revision")
    if scene not in SCENES or revision not in REVISIONS:
        raise RunFolderError(f"{HEADER}: there is no scene {scene!r} of revision {revision!r}")
    sim = get(header, dict, "config", "sim")
    if sim.get("deterministic") is False:
        stage.obstacle = (
            "the run was made with sim.deterministic=false: a chain depends on what ran before it"
        )
        return
    test = quick_selftest(pack, scene, revision)
    if test.outcome == "different":
        stage.obstacle = f"this machine computes other last bits ({test.message}): use another"
        return
    rules = _rules(get(header, dict, "config", "protocol"))
    if rules.budget == "decisions":
        stage.notes.append(
            "how many decisions were made: the budget counts them, and actions do not show them"
        )
    stage.setup = ReplaySetup(
        simulator=SimulatorSpec(
            backend="calvin_eval",
            assets="builtin" if pack.name == "builtin" else str(pack.root),
            scene=scene,
            revision=revision,
            render=RenderInfo(backend="none", requested="none"),
            cameras=(),
        ),
        rules=rules,
    )


def _rules(protocol: Mapping[str, Any]) -> Rules:
    steps, budget = get(protocol, int, "steps"), get(protocol, str, "budget")
    world_reset = get(protocol, str, "world_reset")
    if steps < 1 or budget not in ("env_steps", "decisions"):
        raise RunFolderError(f"{HEADER}: there is no budget of {steps} {budget}")
    if world_reset not in ("chain", "subtask"):
        raise RunFolderError(f"{HEADER}: there is no world_reset per {world_reset!r}")
    return Rules(steps=steps, budget=budget, world_reset=world_reset)


def get(tree: Any, kind: type, *path: str) -> Any:
    """An entry of the header; raises RunFolderError if it is missing or of another kind."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if not isinstance(tree, kind) or isinstance(tree, bool):
        raise RunFolderError(
            f"expected {'.'.join(path)} in {HEADER} to be a {kind.__name__}, found "
            f"{str(tree)[:60]!r}. Was the run written by another version of calvin-eval?"
        )
    return tree
