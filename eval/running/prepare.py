"""What is settled before the first chain: assets, chains, instructions, policy, renderer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from typing import Any

from calvin_eval.config.presets import check_kind
from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import UsageError
from calvin_eval.results.header import Header
from calvin_eval.results.provenance import provenance
from calvin_eval.results.schema import SCHEMA_VERSION
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.hosts import LocalPolicyHost, ServingHost
from calvin_eval.rollouts.policy_log import PolicyLog
from calvin_eval.rollouts.ray.cluster import cluster_resources, connect
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.rollouts.worker import Assignment, PolicyLink, SimulatorSpec
from calvin_eval.running.capacity import worker_room
from calvin_eval.running.policy_in_use import PolicyInUse
from calvin_eval.sim.chains import Chain, ChainList, load_chains
from calvin_eval.sim.dataset_chains import require_scene
from calvin_eval.sim.instruction_lists import require_own_chains
from calvin_eval.sim.instructions import InstructionSet, load_instructions
from calvin_eval.sim.machine import machine_facts
from calvin_eval.sim.packs import AssetPack, CameraSpec, load_pack
from calvin_eval.sim.render import RenderInfo, resolve_backend
from calvin_eval.sim.selection import select
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.language import check_instructions
from calvin_eval.sim.shifts.looks import check_drawable
from calvin_eval.wrappers.loaders import LoadedPolicy

_LoadHost = Callable[[PolicySpec, str | None, BatchRules], ServingHost]


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """All but the policy."""

    config: EvalConfig
    pack: AssetPack
    chain_list: ChainList
    chains: tuple[Chain, ...]
    instructions: InstructionSet


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that is settled before the first chain."""

    inputs: RunInputs
    policy: PolicyInUse
    render: RenderInfo

    @property
    def config(self) -> EvalConfig:
        """The configuration."""
        return self.inputs.config

    def simulator(self) -> SimulatorSpec:
        """What workers build."""
        sim = self.config.sim
        return SimulatorSpec(
            backend=sim.backend,
            assets=self.inputs.pack.location,
            scene=self.config.scene,
            revision=self.config.protocol.revision,
            render=self.render,
            cameras=self._cameras(),
            deterministic=self.config.protocol.deterministic,
        )

    def _cameras(self) -> tuple[str | CameraSpec, ...]:
        """What is drawn: the pack's cameras, in the size that the policy asks for."""
        requirements, pack = self.policy.requirements, self.inputs.pack
        specs: list[str | CameraSpec] = []
        for name in requirements.cameras:
            size = requirements.sizes.get(name)
            if size is None or name not in pack.cameras:
                specs.append(name)
                continue
            width, height = size
            aspect = width / height
            specs.append(replace(pack.cameras[name], width=width, height=height, aspect=aspect))
        return tuple(specs)

    def assignment(self, host: int) -> Assignment:
        """What the workers of a host do."""
        return Assignment(
            simulator=self.simulator(),
            policy=self.policy.hosts[host].link,
            instructions=self.inputs.instructions,
            rules=self.config.protocol,
        )

    @cached_property
    def header(self) -> Header:
        """Everything that the result depends on, and where it came from."""
        inputs = self.inputs
        document = {
            "schema_version": SCHEMA_VERSION,
            "status": "started",
            "config": self.config.decisive(),
            "engine": self.config.as_dict()["engine"],
            "policy": {
                "description": self.policy.description,
                **self.policy.metadata,
                "requirements": self.policy.requirements.observed(),
            },
            "assets": {"name": inputs.pack.name, "fingerprint": inputs.pack.fingerprint},
            "scene": self.config.scene,
            "revision": self.config.protocol.revision,
            "chains": {
                "list": inputs.chain_list.name,
                "sha256": inputs.chain_list.sha256,
                "planned": [chain.id for chain in inputs.chains],
            },
            "instructions": {
                "name": inputs.instructions.name,
                "sha256": inputs.instructions.sha256,
            },
            "renderer": self.render.as_dict(),
            "machine": machine_facts(),
            "provenance": provenance(),
            "started_utc": utc_now(),
        }
        return Header.from_json(as_json(document), "the header of this run")


def gather_inputs(config: EvalConfig) -> RunInputs:
    """Load and check everything that costs little, so that mistakes show at once."""
    protocol = config.protocol
    pack = load_pack(config.sim.assets, verify=config.sim.verify)
    fitted_to = pack.scene(config.scene) if protocol.layout == "scene" else None
    chain_list = load_chains(protocol.chains, scene=fitted_to)
    chains = select(chain_list, protocol.num_chains, protocol.select, config.shard)
    require_scene(chains, config.scene)
    instructions = load_instructions(
        protocol.instructions,
        pack.instructions,
        lines=protocol.instruction_lines,
        draw=protocol.instruction_draw,
    )
    require_own_chains(instructions, chain_list, chains)
    check_instructions(protocol.shifts, instructions)
    instructions.require(chains)  # a missing sentence must not end the run at chain 900
    scene = pack.scene(config.scene)
    chains = tuple(shifted(chain, protocol.shifts, scene) for chain in chains)
    return RunInputs(
        config=config, pack=pack, chain_list=chain_list, chains=chains, instructions=instructions
    )


def policy_spec(config: EvalConfig) -> PolicySpec:
    """The policy that `--ckpt` names with its stages, to be loaded wherever it is needed."""
    check_kind(config)
    return PolicySpec(
        ckpt=config.ckpt,
        trust=config.policy.trust,
        seed=config.seed,
        scene=config.scene,
        interface=dict(config.policy.interface),
        options=config.policy.loader_options,
        observe=dict(config.policy.observe),
        actions=dict(config.policy.actions),
        python=config.policy.python,
    )


def open_policy(config: EvalConfig) -> PolicyInUse:
    """Load the policy that `--ckpt` names, into processes of its own unless it is a light one."""
    from calvin_eval.wrappers.loaders import is_light

    spec = policy_spec(config)
    on_ray = config.engine.name == "ray"
    if spec.python and (on_ray or config.engine.workers == 0):
        raise UsageError(
            "policy.python starts a process on this machine: expected engine=local and one worker "
            "or more."
        )
    if config.engine.confine and (on_ray or config.engine.workers == 0):
        raise UsageError(
            "engine.confine confines a process of this machine that holds nothing but the policy: "
            "expected engine=local and one worker or more."
        )
    if on_ray:
        connect(config.engine.address)
    if config.engine.workers == 0:
        return PolicyInUse.here(lambda: _loaded_here(spec))
    if is_light(config.ckpt):
        loaded = spec.load()
        link = PolicyLink(
            requirements=loaded.policy.requirements,
            inline=spec if not on_ray else _on_nodes(spec, loaded.metadata),
        )
        return PolicyInUse.fixed(loaded, link)
    rules = batch_rules(config)
    log = PolicyLog()
    local = partial(LocalPolicyHost, log=log, confined=config.engine.confine)
    load: _LoadHost = _ray_policy_host() if on_ray else local
    hosts: list[ServingHost] = []
    try:
        for device in config.engine.devices or (None,):
            hosts.append(load(spec, device, rules))
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
        log=log,
    )


def batch_rules(config: EvalConfig) -> BatchRules:
    """When a batch goes, and what is drawn from meanwhile."""
    engine = config.engine
    return BatchRules(most=engine.max_batch, wait=engine.batch_wait, seed=config.seed)


def _loaded_here(spec: PolicySpec) -> tuple[LoadedPolicy, PolicyLink]:
    loaded: LoadedPolicy = spec.load()
    link = PolicyLink(requirements=loaded.policy.requirements, here=loaded.policy, seed=spec.seed)
    return loaded, link


def make_plan(inputs: RunInputs, policy: PolicyInUse) -> RunPlan:
    """Decide who draws; raises RenderError or UsageError where nobody can."""
    requirements, sim = policy.requirements, inputs.config.sim
    render = RenderInfo(backend="none", requested="none")
    if requirements.cameras:
        render = resolve_backend(sim.render, sim.draw, own=sim.backend == "calvin_eval")
    if requirements.cameras and render.backend == "none":
        raise UsageError(
            f"expected a renderer for the cameras {', '.join(requirements.cameras)} that this "
            "policy looks through; found --render none. Choose auto, fast, gl, egl or tiny."
        )
    check_drawable(inputs.config.protocol.shifts, render.backend)
    return RunPlan(inputs=inputs, policy=policy, render=render)


def choose_workers(plan: RunPlan) -> int:
    """The number of workers, from cores and memory where it says `auto`."""
    asked = plan.config.engine.workers
    if isinstance(asked, int):  # more than chains would have nothing to do; 0 is in this process
        return min(asked, max(1, len(plan.inputs.chains)))
    if plan.policy.requirements.max_sessions is not None:
        return len(plan.policy.hosts)  # more would mean more instances of a heavy model
    if plan.config.engine.name == "ray":
        return max(1, min(cluster_resources("CPU"), len(plan.inputs.chains)))
    return max(1, min(worker_room(), len(plan.inputs.chains)))


def _on_nodes(spec: PolicySpec, metadata: Mapping[str, Any]) -> PolicySpec:
    from calvin_eval.rollouts.ray.nodes import NodePolicy

    return NodePolicy(**vars(spec), metadata=metadata)


def _ray_policy_host() -> _LoadHost:
    from calvin_eval.rollouts.ray.hosts import RayPolicyHost

    return RayPolicyHost


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values equal to what is read back from JSON: tuples become lists."""
    data: dict[str, Any] = json.loads(json.dumps(values))
    return data


def utc_now() -> str:
    """The time, to the second, for people to read."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
