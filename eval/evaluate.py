"""From a configuration to a run folder: the place where the folders meet."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calvin_eval.config import EvalConfig
from calvin_eval.errors import UsageError
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.official import ProtocolFacts, Verdict, official_verdict
from calvin_eval.results.provenance import provenance
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.upstream import upstream_results

if TYPE_CHECKING:
    from calvin_eval.rollouts.chain import Simulator
    from calvin_eval.sim.chains import Chain, ChainList
    from calvin_eval.sim.instructions import InstructionSet
    from calvin_eval.sim.packs import AssetPack
    from calvin_eval.sim.render import RenderInfo
    from calvin_eval.wrappers.loaders import LoadedPolicy

EXIT_DONE, EXIT_ERRORS = 0, 3


class Display(Protocol):
    """Who shows a run while it goes on."""

    def note(self, text: str) -> None:
        """Say one line."""

    def begin(self, chains: int) -> None:
        """The run starts."""

    def step(self) -> None:
        """One environment step was taken."""

    def record(self, record: ChainRecord) -> None:
        """One chain is finished."""

    def end(self) -> None:
        """The run is over, whatever its outcome."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        folder: where its files are.
        records: its chains, in order of their ids.
        summary: its metrics.
        verdict: whether it is official, and why not.
        policy: one line about what was evaluated.
    """

    folder: Path
    records: tuple[ChainRecord, ...]
    summary: Summary
    verdict: Verdict
    policy: str

    @property
    def exit_code(self) -> int:
        """0 for a complete run, 3 for one with errors."""
        return EXIT_ERRORS if self.summary.errors else EXIT_DONE


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that is settled before the first chain."""

    config: EvalConfig
    pack: AssetPack
    loaded: LoadedPolicy
    chain_list: ChainList
    chains: tuple[Chain, ...]
    instructions: InstructionSet
    render: RenderInfo

    @property
    def needs_images(self) -> bool:
        return bool(self.loaded.policy.requirements.cameras)


def run_evaluation(config: EvalConfig, display: Display) -> Run:
    """Run the configured chains one after another and write the run folder.

    Raises:
        CalvinEvalError: something that the user can mend, before or during the run.
        KeyboardInterrupt: after the finished chains are safe and the header says `interrupted`.
    """
    plan = _plan(config, display)
    folder = RunFolder.create(_run_path(config), _header(plan), overwrite=config.overwrite)
    display.note(f"writing to {_short(folder.path)}")
    env = _make_simulator(plan)
    status = "error"
    try:
        display.begin(len(plan.chains))
        _run_chains(plan, env, folder, display)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        display.end()
        env.close()
        folder.update_header(status=status, ended_utc=_now())
    return _finish(plan, folder)


def _plan(config: EvalConfig, display: Display) -> _Plan:
    from calvin_eval.sim.chains import load_chains, select
    from calvin_eval.sim.instructions import load_instructions
    from calvin_eval.sim.packs import load_pack
    from calvin_eval.sim.render import resolve_backend
    from calvin_eval.wrappers.loaders import resolve

    protocol = config.protocol
    pack = load_pack(config.sim.assets, verify=config.sim.verify)
    chain_list = load_chains(protocol.chains)
    chains = tuple(select(chain_list, num_chains=protocol.num_chains, selection=protocol.select))
    instructions = load_instructions(protocol.instructions, pack.instructions)
    instructions.require(chains)  # a missing sentence must not end the run at chain 900
    loaded = resolve(
        config.ckpt, trust=config.policy.trust, seed=config.seed, options=config.policy.options
    )
    display.note(f"policy: {loaded.description}")
    display.note(f"assets: {pack.name} pack {pack.fingerprint[:12]}, scene {config.scene}")
    display.note(f"chains: {len(chains)} of {chain_list.name} list {chain_list.sha256[:12]}")
    needs_images = bool(loaded.policy.requirements.cameras)
    render = resolve_backend(config.sim.render if needs_images else "none")
    if needs_images and render.backend == "none":
        raise UsageError(
            f"expected a renderer for the cameras {loaded.policy.requirements.cameras} that this "
            "policy looks through; found --render none. Choose auto, egl or tiny."
        )
    display.note(f"renderer: {_render_text(render, needs_images)}")
    return _Plan(
        config=config,
        pack=pack,
        loaded=loaded,
        chain_list=chain_list,
        chains=chains,
        instructions=instructions,
        render=render,
    )


def _render_text(render: RenderInfo, needs_images: bool) -> str:
    if not needs_images:
        return "none (the policy needs no images)"
    return ", ".join(filter(None, (render.backend, render.renderer, render.version)))


def _make_simulator(plan: _Plan) -> Simulator:
    sim, cameras = plan.config.sim, plan.loaded.policy.requirements.cameras
    if sim.backend == "calvin_env":
        from calvin_eval.sim.upstream import UpstreamEnv

        return UpstreamEnv(
            plan.config.scene,
            assets=plan.pack,
            revision=sim.revision,  # type: ignore[arg-type]
            render=plan.render.backend,
            cameras=cameras,
            deterministic=sim.deterministic,
        )
    from calvin_eval.sim.env import PlayTableEnv
    from calvin_eval.sim.world import World

    world = World(plan.pack, plan.config.scene, sim.revision)  # type: ignore[arg-type]
    return PlayTableEnv(world, render=plan.render, cameras=cameras)


def _run_chains(plan: _Plan, env: Simulator, folder: RunFolder, display: Display) -> None:
    from calvin_eval.rollouts.chain import ChainRunner, Rules
    from calvin_eval.sim.oracle import TaskOracle

    protocol = plan.config.protocol
    rules = Rules(
        steps=protocol.steps,
        budget=protocol.budget,  # type: ignore[arg-type]
        policy_reset=protocol.policy_reset,  # type: ignore[arg-type]
        world_reset=protocol.world_reset,  # type: ignore[arg-type]
        execute=protocol.execute,
        leftover=protocol.leftover,  # type: ignore[arg-type]
    )
    runner = ChainRunner(
        env,
        TaskOracle(plan.pack),
        plan.loaded.policy,
        instructions=plan.instructions,
        rules=rules,
        on_step=lambda position: display.step(),
    )
    with folder.journal() as journal:
        for chain in plan.chains:
            outcome = runner.run(chain)
            journal.append(outcome.record)
            display.record(outcome.record)


def _finish(plan: _Plan, folder: RunFolder) -> Run:
    records = tuple(folder.records())
    summary = summarize(records, len(plan.chains))
    verdict = official_verdict(_facts(plan, summary))
    stated = {"official": verdict.official, "reasons": list(verdict.reasons)}
    folder.update_header(verdict=stated)
    folder.write_json("summary.json", {**summary.to_json(), "verdict": stated})
    if summary.complete:
        folder.write_json("results.json", upstream_results(records))
    return Run(
        folder=folder.path,
        records=records,
        summary=summary,
        verdict=verdict,
        policy=plan.loaded.description,
    )


def _facts(plan: _Plan, summary: Summary) -> ProtocolFacts:
    from calvin_eval.sim.assets_store import OFFICIAL_FINGERPRINT
    from calvin_eval.sim.chains import OFFICIAL_SHA256
    from calvin_eval.sim.instructions import OFFICIAL_SHA256 as OFFICIAL_INSTRUCTIONS

    protocol = plan.config.protocol
    return ProtocolFacts(
        pack_fingerprint=plan.pack.fingerprint,
        official_fingerprint=OFFICIAL_FINGERPRINT,
        revision=plan.config.sim.revision,
        chain_list_hash=plan.chain_list.sha256,
        official_chain_list_hash=OFFICIAL_SHA256,
        planned=summary.planned,
        completed=summary.completed,
        errors=summary.errors,
        instructions_hash=plan.instructions.sha256,
        official_instructions_hash=OFFICIAL_INSTRUCTIONS,
        step_budget=f"{protocol.steps} {protocol.budget}",
        policy_reset=protocol.policy_reset,
        world_reset=protocol.world_reset if plan.config.sim.deterministic else "undeterministic",
        leftover=protocol.leftover,
        scene=plan.config.scene,
        renderer=plan.render.backend,
        needs_images=plan.needs_images,
        privileged=plan.loaded.policy.requirements.privileged,
    )


def _header(plan: _Plan) -> dict[str, Any]:
    """Everything that the result depends on, and where it came from."""
    return {
        "config": plan.config.as_dict(),
        "config_digest": config_digest(plan.config),
        "policy": {"description": plan.loaded.description, **plan.loaded.metadata},
        "assets": {"name": plan.pack.name, "fingerprint": plan.pack.fingerprint},
        "scene": plan.config.scene,
        "revision": plan.config.sim.revision,
        "chains": {
            "list": plan.chain_list.name,
            "sha256": plan.chain_list.sha256,
            "planned": [chain.id for chain in plan.chains],
        },
        "instructions": {"name": plan.instructions.name, "sha256": plan.instructions.sha256},
        "renderer": plan.render.as_dict(),
        "provenance": provenance(),
        "started_utc": _now(),
    }


def config_digest(config: EvalConfig) -> str:
    """SHA-256 over all of the configuration that can change a record."""
    decisive = {k: v for k, v in config.as_dict().items() if k not in ("out", "overwrite")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _run_path(config: EvalConfig) -> Path:
    if config.out is not None:
        return Path(config.out)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.ckpt).name).strip("-.") or "policy"
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{config.split}-{moment}"


def _short(path: Path) -> str:
    """Relative to the current directory where that is shorter to read."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
