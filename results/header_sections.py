"""The sections of a run's header; `header.Header` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from calvin_eval.checks import Bounds, Natural

_Pixels = Annotated[int, Bounds(least=1)]


@dataclass(frozen=True, kw_only=True)
class PresetFacts:
    """How the policy was configured.

    Attributes:
        preset: name or file of the preset in use; null without one.
    """

    preset: str | None = None


@dataclass(frozen=True, kw_only=True)
class SimFacts:
    """How the simulator was configured.

    Attributes:
        backend: whose simulator.
        assets: the asset pack, as given by --assets.
    """

    backend: Literal["calvin_eval", "calvin_env"]
    assets: str


@dataclass(frozen=True, kw_only=True)
class ConfigFacts:
    """What of the configuration can change a record.

    Attributes:
        ckpt: the policy, as given by --ckpt.
        split: what the policy was trained on, or the scene.
        shard: i/n for every n-th chain from the i-th; null for all.
        seed: of the policy.
        sim: keys of the section `sim`; `revision` and `deterministic` are rules.
        protocol: keys of the section `protocol`, which are rules; see `Header.protocol`.
        policy: keys of the section `policy`.
    """

    ckpt: str
    split: str
    shard: str | None = None
    seed: int
    sim: SimFacts
    protocol: Mapping[str, Any]
    policy: PresetFacts = PresetFacts()


@dataclass(frozen=True, kw_only=True)
class RequirementFacts:
    """What the policy looked at.

    Attributes:
        rgb: cameras whose colour images it saw.
        depth: cameras whose depth images it saw.
        sizes: width and height in pixels of the cameras that had not the pack's.
        every_step: whether it saw every step, not only those at which it decided.
        privileged: whether it read the simulator's own state.
        actions: how many of the actions that were executed it read at most.
        matrices: whether it was given the matrices of the cameras.
    """

    rgb: tuple[str, ...]
    depth: tuple[str, ...]
    sizes: Mapping[str, tuple[_Pixels, _Pixels]] = field(default_factory=dict)
    every_step: bool = False
    privileged: bool
    actions: Annotated[int, Bounds(least=0)] = 0
    matrices: bool = False


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """The policy; its loader may say more, such as hashes of files.

    Attributes:
        description: one line for people.
        ckpt: what it was loaded from.
        kind: of checkpoint.
        protocol: of the server that it runs on; null for a policy that is no server.
        options: of the loader.
        stages: between network and simulator, by side (`observe`, `actions`) and label.
        requirements: what it looked at.
    """

    description: str
    ckpt: str
    kind: str
    protocol: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requirements: RequirementFacts


@dataclass(frozen=True, kw_only=True)
class AssetFacts:
    """The asset pack.

    Attributes:
        name: builtin, official, or the name of a folder.
        fingerprint: SHA-256 over its files.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ChainFacts:
    """The chains.

    Attributes:
        list: name of the chain list.
        sha256: of the whole list, start states included.
        planned: ids of the chains that the run is meant to have, in order.
    """

    list: str
    sha256: str
    planned: tuple[Natural, ...]


@dataclass(frozen=True, kw_only=True)
class InstructionFacts:
    """The sentences that the policy was given.

    Attributes:
        name: pack, or the name of a file.
        sha256: of the sentences.
    """

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RendererFacts:
    """Who drew the policy's images.

    Attributes:
        backend: fast, gl, egl, tiny, or none.
        requested: the value of --render.
        vendor: of the GL driver; empty without one.
        renderer: of the GL driver.
        version: of the GL driver.
        options: of fast and gl; absent or null for the others.
        fidelity: how near the images are to EGL's, as measured; empty for EGL itself.
    """

    backend: str
    requested: str = ""
    vendor: str = ""
    renderer: str = ""
    version: str = ""
    options: Mapping[str, Any] | None = None
    fidelity: str = ""


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The checkout that calvin-eval ran from.

    Attributes:
        revision: of its last commit.
        dirty: whether files differed from it.
    """

    revision: str
    dirty: bool


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Versions and machine.

    Attributes:
        time_utc: when it was noted.
        argv: the command line.
        calvin_eval: version; null where it is not installed.
        git: null outside a checkout.
        python: version.
        packages: versions by name; null for one that is not installed.
    """

    time_utc: str = ""
    argv: tuple[str, ...] = ()
    calvin_eval: str | None = None
    git: GitState | None = None
    python: str = ""
    packages: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ActionFindings:
    """What the run noticed about the actions that were executed.

    Attributes:
        actions: how many were looked at.
        findings: one line each.
    """

    actions: Natural
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReproducibilityFacts:
    """Whether the policy decides the same when it is asked the same again.

    Attributes:
        reproducible: whether all decisions were the same to the last bit; null if unknown.
        decisions: how many were compared, before the first chain.
        found: one line about it.
    """

    reproducible: bool | None
    decisions: Natural
    found: str
