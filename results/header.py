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
from calvin_eval.protocol import Protocol, Revision, SceneName
from calvin_eval.results import typed
from calvin_eval.results.header_sections import (
    ActionFindings,
    AssetFacts,
    ChainFacts,
    ConfigFacts,
    InstructionFacts,
    PolicyFacts,
    Provenance,
    RendererFacts,
    ReproducibilityFacts,
)
from calvin_eval.results.official import Verdict
from calvin_eval.results.schema import SCHEMA_VERSION

HEADER: Final = "header.json"

RunStatus: TypeAlias = Literal["started", "finished", "interrupted", "error"]

SAME_RUN: Final = (
    "config", "policy", "assets", "scene", "revision", "chains", "instructions", "renderer",
)  # fmt: skip
"""Sections that agree when a run is resumed, and in shards of one run (but for `config.shard` and
`chains.planned`)."""


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
        machine: builds of PyBullet, processor and C library, which decide the last bits; null in
            a merged run, and in one from before they were noted.
        provenance: versions, code revision and command line.
        started_utc: when the run was started.
        resumed_utc: when it was last resumed.
        ended_utc: when it ended.
        selftest: whether this machine computes the reference's bits.
        reproducibility: whether the policy decides the same when it is asked again; null where it
            was not asked, as built-in policies and those behind servers are not.
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
    scene: SceneName
    revision: Revision
    chains: ChainFacts
    instructions: InstructionFacts
    renderer: RendererFacts
    machine: Mapping[str, Any] | None = None
    provenance: Provenance
    started_utc: str = ""
    resumed_utc: str | None = None
    ended_utc: str | None = None
    selftest: Mapping[str, Any] | None = None
    reproducibility: ReproducibilityFacts | None = None
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


def check_version(document: Mapping[str, Any], where: str) -> None:
    """Raise RunFolderError, saying which calvin-eval is needed, unless the version is ours.

    Args:
        document: a header as it is on disk.
        where: its path, for the message.
    """
    version = document.get("schema_version")
    expected = f"{where}: expected schema version {SCHEMA_VERSION}, found {version!r}"
    if type(version) is not int or version < SCHEMA_VERSION:
        raise RunFolderError(f"{expected}. Is this the header of a run? Restore the file.")
    if version > SCHEMA_VERSION:
        writer = written_by(document)
        least = f"{writer} or newer" if writer else "the one that wrote this run, or a newer one"
        raise RunFolderError(f"{expected}: that needs a newer calvin-eval. Install {least}.")
