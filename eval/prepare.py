"""What is settled before the first chain: assets, chains, instructions, policy, renderer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from calvin_eval.config import EvalConfig
from calvin_eval.errors import UsageError
from calvin_eval.results.metrics import Summary
from calvin_eval.results.official import ProtocolFacts
from calvin_eval.results.provenance import provenance
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.chain import Rules
from calvin_eval.rollouts.hosts import FixedPolicy, PolicyHost
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.rollouts.worker import Assignment, PolicyLink, SimulatorSpec
from calvin_eval.sim.chains import OFFICIAL_SHA256, Chain, ChainList, load_chains, select
from calvin_eval.sim.instructions import OFFICIAL_SHA256 as OFFICIAL_INSTRUCTIONS
from calvin_eval.sim.instructions import InstructionSet, load_instructions
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.render import RenderInfo, resolve_backend
from calvin_eval.wrappers.policy import Requirements

_WORKER_BYTES = 500e6
"""What `--workers auto` sets aside per worker; measured: 160 MB for physics, 330 MB with EGL."""


@dataclass(frozen=True, kw_only=True)
class PolicyInUse:
    """A loaded policy, wherever it is.

    Attributes:
        hosts: its processes, or where else workers find it.
        description: one line for the user.
        metadata: facts for the header.
        max_sessions: chains that one instance can serve at once; any number if None.
    """

    hosts: Sequence[PolicyHost | FixedPolicy]
    description: str
    metadata: Mapping[str, Any]
    requirements: Requirements
    max_sessions: int | None

    def close(self) -> None:
        """End its processes."""
        for host in self.hosts:
            host.close()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """All but the policy."""

    config: EvalConfig
    pack: AssetPack
    chain_list: ChainList
    chains: tuple[Chain, ...]
    instructions: InstructionSet


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is settled before the first chain."""

    stage: Stage
    policy: PolicyInUse
    render: RenderInfo

    @property
    def config(self) -> EvalConfig:
        """The configuration."""
        return self.stage.config

    def simulator(self) -> SimulatorSpec:
        """What workers build."""
        sim = self.config.sim
        return SimulatorSpec(
            backend=sim.backend,
            assets=os.fspath(self.stage.pack.root)
            if self.stage.pack.name != "builtin"
            else "builtin",
            scene=self.config.scene,
            revision=sim.revision,
            render=self.render,
            cameras=self.policy.requirements.cameras,
            deterministic=sim.deterministic,
        )

    def assignment(self, host: int) -> Assignment:
        """What the workers of a host do."""
        protocol = self.config.protocol
        return Assignment(
            simulator=self.simulator(),
            policy=self.policy.hosts[host].link,
            instructions=self.stage.instructions,
            rules=Rules(
                steps=protocol.steps,
                budget=protocol.budget,  # type: ignore[arg-type]
                policy_reset=protocol.policy_reset,  # type: ignore[arg-type]
                world_reset=protocol.world_reset,  # type: ignore[arg-type]
                execute=protocol.execute,
                leftover=protocol.leftover,  # type: ignore[arg-type]
            ),
        )

    def header(self) -> dict[str, Any]:
        """Everything that the result depends on, and where it came from."""
        stage = self.stage
        return {
            "config": self.config.decisive(),
            "engine": self.config.as_dict()["engine"],
            "policy": {"description": self.policy.description, **self.policy.metadata},
            "assets": {"name": stage.pack.name, "fingerprint": stage.pack.fingerprint},
            "scene": self.config.scene,
            "revision": self.config.sim.revision,
            "chains": {
                "list": stage.chain_list.name,
                "sha256": stage.chain_list.sha256,
                "planned": [chain.id for chain in stage.chains],
            },
            "instructions": {"name": stage.instructions.name, "sha256": stage.instructions.sha256},
            "renderer": self.render.as_dict(),
            "provenance": provenance(),
            "started_utc": utc_now(),
        }

    def facts(self, summary: Summary) -> ProtocolFacts:
        """What the official verdict is judged by."""
        stage, protocol, requirements = self.stage, self.config.protocol, self.policy.requirements
        fresh = self.config.sim.deterministic
        from calvin_eval.sim.assets_store import OFFICIAL_FINGERPRINT

        return ProtocolFacts(
            pack_fingerprint=stage.pack.fingerprint,
            official_fingerprint=OFFICIAL_FINGERPRINT,
            revision=self.config.sim.revision,
            chain_list_hash=stage.chain_list.sha256,
            official_chain_list_hash=OFFICIAL_SHA256,
            planned=summary.planned,
            completed=summary.completed,
            errors=summary.errors,
            instructions_hash=stage.instructions.sha256,
            official_instructions_hash=OFFICIAL_INSTRUCTIONS,
            step_budget=f"{protocol.steps} {protocol.budget}",
            policy_reset=protocol.policy_reset,
            world_reset=protocol.world_reset if fresh else "run, and not deterministic",
            leftover=protocol.leftover,
            scene=self.config.scene,
            renderer=self.render.backend,
            needs_images=bool(requirements.cameras),
            privileged=requirements.privileged,
        )


RESUME_SECTIONS = (
    "config", "policy", "assets", "scene", "revision", "chains", "instructions", "renderer",
)  # fmt: skip
"""Header sections that must agree when a run is resumed."""


def set_stage(config: EvalConfig) -> Stage:
    """Load and check everything that costs little, so that mistakes show at once."""
    protocol = config.protocol
    pack = load_pack(config.sim.assets, verify=config.sim.verify)
    chain_list = load_chains(protocol.chains)
    chains = tuple(select(chain_list, num_chains=protocol.num_chains, selection=protocol.select))
    if config.shard is not None:
        i, n = map(int, config.shard.split("/"))
        chains = chains[i - 1 :: n]
        if not chains:
            raise UsageError(f"shard {config.shard} of so few chains is empty; use fewer shards")
    instructions = load_instructions(protocol.instructions, pack.instructions)
    instructions.require(chains)  # a missing sentence must not end the run at chain 900
    return Stage(
        config=config, pack=pack, chain_list=chain_list, chains=chains, instructions=instructions
    )


def open_policy(config: EvalConfig) -> PolicyInUse:
    """Load the policy that `--ckpt` names, into processes of its own unless it is a light one."""
    from calvin_eval.wrappers.loaders import is_light

    spec = PolicySpec(
        ckpt=config.ckpt,
        trust=config.policy.trust,
        seed=config.seed,
        options=dict(config.policy.options),
    )
    if is_light(config.ckpt) or config.engine.workers == 0:
        loaded = spec.load()
        link = PolicyLink(requirements=loaded.policy.requirements, inline=spec)
        return PolicyInUse(
            hosts=(FixedPolicy(link),),
            description=loaded.description,
            metadata=loaded.metadata,
            requirements=loaded.policy.requirements,
            max_sessions=None,
        )
    rules = BatchRules(most=config.engine.max_batch, wait=config.engine.batch_wait)
    hosts: list[PolicyHost] = []
    try:
        for device in config.engine.devices or (None,):
            hosts.append(PolicyHost(spec, device, rules))
    except BaseException:
        for host in hosts:
            host.close()
        raise
    ready = hosts[0].ready
    return PolicyInUse(
        hosts=hosts,
        description=ready.description,
        metadata=ready.metadata,
        requirements=ready.requirements,
        max_sessions=ready.max_sessions,
    )


def make_plan(stage: Stage, policy: PolicyInUse) -> Plan:
    """Decide who draws; raises RenderError or UsageError where nobody can."""
    requirements, wanted = policy.requirements, stage.config.sim.render
    render = resolve_backend(wanted if requirements.cameras else "none")
    if requirements.cameras and render.backend == "none":
        raise UsageError(
            f"expected a renderer for the cameras {', '.join(requirements.cameras)} that this "
            "policy looks through; found --render none. Choose auto, egl or tiny."
        )
    return Plan(stage=stage, policy=policy, render=render)


def choose_workers(plan: Plan) -> int:
    """The number of workers, from cores and memory where it says `auto`."""
    asked = plan.config.engine.workers
    if isinstance(asked, int):
        return asked
    if plan.policy.max_sessions is not None:
        return len(plan.policy.hosts)  # more would mean more instances of a heavy model
    room = int(_free_memory() // _WORKER_BYTES)
    return max(1, min(_cores(), room, len(plan.stage.chains)))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> float:
    """Bytes; plenty where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return 1e12


def utc_now() -> str:
    """The time, to the second, for people to read."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
