"""The header of a run, `header.json`: what was run, on what, by which rules, and where.

`Header.from_json` is the only reader. What is recorded beside the fields (a policy may say more of
itself, and so may later versions) is kept in `Header.document`. docs/run-folder.md describes the
whole folder; `header.schema.json`, written by `python -m tools.header_schema`, this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.protocol import Protocol, Revision
from calvin_eval.results import typed
from calvin_eval.results.official import Verdict

HEADER: Final = "header.json"

RunStatus: TypeAlias = Literal["started", "finished", "interrupted", "error"]

SAME_RUN: Final = (
    "config", "policy", "assets", "scene", "revision", "chains", "instructions", "renderer",
)  # fmt: skip
"""Sections that agree when a run is resumed, and in shards of one run (but for `config.shard` and
`chains.planned`)."""


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
    """

    rgb: tuple[str, ...]
    depth: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    every_step: bool = False
    privileged: bool


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
    planned: tuple[int, ...]


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
        requested: what --render said.
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

    actions: int
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything that a run's result depends on, and where it came from.

    Attributes:
        schema_version: of everything in the run folder.
        status: started (or killed since), finished, interrupted or error.
        run_id: of this run, wherever its folder lies; null in a run from before there were ids.
        config: what of the configuration can change a record.
        engine: who did the work; null in a run merged from shards of several.
        policy: the policy.
        assets: the asset pack.
        scene: letter of the scene.
        revision: of calvin_env, whose rules the table followed.
        chains: the chains.
        instructions: the sentences that the policy was given.
        renderer: who drew the policy's images.
        provenance: versions and machine.
        started_utc: when the run was started.
        resumed_utc: when it was last resumed.
        ended_utc: when it ended.
        selftest: whether this machine computes the reference's bits.
        action_check: what the run noticed about the actions that were executed.
        verdict: whether the result is official, and why not.
        merged_from: of a merged run, what the shards' headers have for themselves.
        document: the whole header as JSON values.
    """

    schema_version: int
    status: RunStatus = "started"
    run_id: str | None = None
    config: ConfigFacts
    engine: Mapping[str, Any] | None = None
    policy: PolicyFacts
    assets: AssetFacts
    scene: Literal["A", "B", "C", "D"]
    revision: Revision
    chains: ChainFacts
    instructions: InstructionFacts
    renderer: RendererFacts
    provenance: Provenance
    started_utc: str = ""
    resumed_utc: str | None = None
    ended_utc: str | None = None
    selftest: Mapping[str, Any] | None = None
    action_check: ActionFindings | None = None
    verdict: Verdict | None = None
    merged_from: tuple[Mapping[str, Any], ...] = ()
    document: Mapping[str, Any] = field(
        default_factory=dict, repr=False, compare=False, metadata=typed.NOT_JSON
    )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str = HEADER) -> Header:
        """Read a header of the present schema version.

        Args:
            document: JSON values.
            where: the file, for messages.

        Raises:
            RunFolderError: an entry is missing or not possible; says which.
        """
        try:
            header = replace(typed.read(cls, document), document=document)
            rules = header.protocol
            if rules.revision != header.revision:
                raise typed.MismatchError(
                    "revision", f"{rules.revision}, as config.sim.revision", header.revision
                )
        except (typed.MismatchError, UsageError) as error:
            raise RunFolderError(
                f"{where}: {error}. Restore the file; or, if the run was written by another "
                f"version of calvin-eval, read it with {written_by(document) or 'that one'}."
            ) from error
        return header

    @cached_property
    def protocol(self) -> Protocol:
        """The rules that the run was made by."""
        return Protocol.from_config(self.document["config"])

    @property
    def planned(self) -> tuple[int, ...]:
        """Ids of the chains that the run is meant to have."""
        return self.chains.planned


def written_by(document: Mapping[str, Any]) -> str:
    """The calvin-eval that wrote a header; empty if it does not say."""
    facts = document.get("provenance")
    version = facts.get("calvin_eval") if isinstance(facts, Mapping) else None
    return f"calvin-eval {version}" if isinstance(version, str) and version else ""
