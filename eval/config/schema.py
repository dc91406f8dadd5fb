"""The configuration of a run, as it is stored in the run's header; see `compose` for its making."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.sim.drawing.options import DrawOptions

SPLITS = {"D": "D", "ABC_D": "D", "ABCD_D": "D", "A": "A", "B": "B", "C": "C"}
"""What a policy was trained on, and the scene it is evaluated in."""

SHORTHANDS = {
    "split": "split",
    "num_chains": "protocol.num_chains",
    "chains": "protocol.select",
    "assets": "sim.assets",
    "realtime": "protocol.realtime.latency",
    "render": "sim.render",
    "revision": "sim.revision",
    "out": "out",
    "seed": "seed",
    "overwrite": "overwrite",
    "resume": "resume",
    "shard": "shard",
    "trust": "policy.trust",
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


@dataclass(frozen=True, kw_only=True)
class SimConfig:
    """Which simulator; the fields are explained in `conf/sim/calvin_eval.yaml`."""

    backend: str
    assets: str
    verify: bool
    revision: str
    render: str
    draw: DrawOptions
    deterministic: bool


@dataclass(frozen=True, kw_only=True)
class RealTimeConfig:
    """How the world goes on while the policy thinks; it waits if there is no `latency`."""

    latency: int | str | None
    hz: float
    ask: str
    while_waiting: str
    stale: str

    def __post_init__(self) -> None:
        """Raise UsageError for a latency or a rate that there is not."""
        steps = type(self.latency) is int and self.latency >= 0
        if self.latency not in (None, "measured") and not steps:
            raise UsageError(
                "expected --realtime (protocol.realtime.latency) to be measured, or a number of "
                f"steps from 0 up; found {self.latency!r}"
            )
        if type(self.hz) not in (int, float) or not 0 < self.hz < math.inf:
            raise UsageError(
                f"expected protocol.realtime.hz to be steps per second, above 0; found {self.hz!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How chains are run; the fields are explained in `conf/protocol/official.yaml`."""

    chains: str
    layout: str
    num_chains: int | None
    select: str | None
    steps: int
    budget: str
    instructions: str
    policy_reset: str
    world_reset: str
    execute: int | None
    leftover: str
    realtime: RealTimeConfig

    def __post_init__(self) -> None:
        """Raise UsageError for rules that contradict each other."""
        if self.realtime.latency is not None and self.budget != "env_steps":
            raise UsageError(
                f"expected protocol.budget=env_steps with --realtime, found {self.budget}: a "
                "world that goes on counts time, not decisions"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How the policy is loaded, and what stands between it and the simulator.

    The fields are explained in `conf/policy/default.yaml`.
    """

    preset: str | None = None
    source: str | None = None
    kind: str | None = None
    python: str | None = None
    trust: bool = False
    arguments: str | None = None
    arguments_sha256: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    observe: Mapping[str, Any] = field(default_factory=dict)
    actions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Who does the work; the fields are explained in `conf/engine/local.yaml`."""

    name: str
    address: str | None
    workers: int | str
    devices: tuple[str, ...] | None
    max_batch: int
    batch_wait: float
    retries: int
    step_timeout: float
    max_errors: int | None


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
    seed: int
    sim: SimConfig
    protocol: ProtocolConfig
    engine: EngineConfig
    policy: PolicyConfig
    video: VideoConfig

    @property
    def scene(self) -> str:
        """The scene of the split."""
        return SPLITS[self.split]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

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
