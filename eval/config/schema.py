"""The configuration of a run, as it is stored in the run's header; see `compose` for its making."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from calvin_eval.checks import Bounds
from calvin_eval.protocol import SPLITS, Protocol
from calvin_eval.sim.drawing.options import DrawOptions, check_backend
from calvin_eval.wrappers.loaders.folders import CHECKOUT

SHORTHANDS = {
    "split": "split",
    "num_chains": "protocol.num_chains",
    "chains": "protocol.select",
    "assets": "sim.assets",
    "realtime": "protocol.realtime.latency",
    "shift": "protocol.shift",
    "render": "sim.render",
    "revision": "sim.revision",
    "out": "out",
    "seed": "seed",
    "overwrite": "overwrite",
    "resume": "resume",
    "shard": "shard",
    "trust": "policy.trust",
    "confine": "engine.confine",
    "workers": "engine.workers",
    "devices": "engine.devices",
    "max_batch": "engine.max_batch",
    "batch_wait": "engine.batch_wait",
    "retries": "engine.retries",
    "step_timeout": "engine.step_timeout",
    "max_errors": "engine.max_errors",
    "video": "video.which",
    "gate": "gate",
    "baseline": "baseline",
    "expect": "expect",
}
"""Flags of the command line, and the configuration keys that they stand for."""


SIM_KEYS = ("backend", "assets", "verify", "revision", "render", "draw", "deterministic")
"""The keys of the section `sim`, in their order: those of `SimConfig`, and the rules in it."""


@dataclass(frozen=True, kw_only=True)
class SimConfig:
    """Which simulator; the fields are explained in `conf/sim/calvin_eval.yaml`.

    The section's `revision` and `deterministic` are rules, and fields of `Protocol`.
    """

    backend: Literal["calvin_eval", "calvin_env"]
    assets: str
    verify: bool
    render: str
    draw: DrawOptions

    def __post_init__(self) -> None:
        """Raise UnknownNameError for a renderer that nobody has."""
        check_backend(self.render)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How the policy is loaded, and what stands between it and the simulator.

    The fields are explained in `conf/policy/default.yaml`.
    """

    preset: str | None = None
    source: str | None = None
    kind: str | None = None
    python: str | None = None
    robovlms_checkout: str | None = None
    trust: bool = False
    arguments: str | None = None
    arguments_sha256: str | None = None
    interface: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    observe: Mapping[str, Any] = field(default_factory=dict)
    actions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loader_options(self) -> dict[str, Any]:
        """What the loader gets: `options`, and the checkout that is to run the checkpoint."""
        if self.robovlms_checkout is None:
            return dict(self.options)
        return {**self.options, CHECKOUT: self.robovlms_checkout}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Who does the work; the fields are explained in `conf/engine/local.yaml`."""

    name: Literal["local", "ray"]
    address: str | None
    workers: int | str
    devices: tuple[str, ...] | None
    max_batch: Annotated[int, Bounds(least=1)]
    batch_wait: Annotated[float, Bounds(least=0)]
    retries: Annotated[int, Bounds(least=0)]
    step_timeout: Annotated[float, Bounds(least=0)]
    max_errors: Annotated[int | None, Bounds(least=1)]
    confine: bool
    ask_twice: bool
    same_errors: Annotated[int | None, Bounds(least=1)]


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """What is filmed; the fields are explained in `conf/config.yaml`."""

    which: str | int
    per: str
    format: str
    cameras: tuple[str, ...]
    height: int


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything that decides a run's result, who works on it, and where it is written."""

    ckpt: str
    split: str
    out: str | None
    overwrite: bool
    resume: bool
    shard: str | None
    gate: str | None
    baseline: str | None
    expect: str | None
    seed: Annotated[int, Bounds(least=0)]
    sim: SimConfig
    protocol: Protocol
    engine: EngineConfig
    policy: PolicyConfig
    video: VideoConfig

    @property
    def scene(self) -> str:
        """The scene of the split."""
        return SPLITS[self.split]

    def as_dict(self) -> dict[str, Any]:
        """JSON form: the sections and keys of the command line."""
        values, rules = asdict(self), self.protocol.to_config()
        if self.policy.robovlms_checkout is None:  # as headers were before the key existed
            del values["policy"]["robovlms_checkout"]
        sim = {**values["sim"], **rules["sim"]}
        return {
            **values,
            "sim": {key: sim[key] for key in SIM_KEYS},
            "protocol": rules["protocol"],
        }

    def decisive(self) -> dict[str, Any]:
        """The part of it that can change a record, in JSON form.

        `protocol.realtime` is null while the world waits: its other options have no effect.
        """
        idle = (
            "out", "overwrite", "resume", "engine", "video", "gate", "baseline", "expect",
        )  # fmt: skip
        decisive = {key: value for key, value in self.as_dict().items() if key not in idle}
        if self.protocol.realtime.latency is None:
            decisive["protocol"]["realtime"] = None
        return decisive


def policy_name(ckpt: str) -> str:
    """A checkpoint's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(ckpt).name).strip("-.") or "policy"
