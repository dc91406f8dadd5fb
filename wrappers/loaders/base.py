"""What all loaders share: what they are given, what they return, and facts about files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from calvin_eval.errors import CheckpointError, UnknownNameError
from calvin_eval.wrappers.interface import Interface
from calvin_eval.wrappers.policy import BasePolicy
from calvin_eval.wrappers.stages import Settings

TRUST_FLAG = "--trust"
"""How the command line spells `trust=True`."""


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A policy that is ready to run.

    Attributes:
        policy: the policy, with the optional parts of the contract filled in.
        kind: what was recognised, for example "torchscript".
        description: one line for the user.
        metadata: facts for the run's header; JSON can hold it.
        observe: observation stages that the checkpoint itself declares, by label.
        actions: action stages that it declares.
    """

    policy: BasePolicy
    kind: str
    description: str
    metadata: Mapping[str, Any]
    observe: Settings = field(default_factory=dict)
    actions: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the user asked for.

    Attributes:
        ckpt: the text as given.
        options: the policy's own options.
        trust: whether a file may run code of its own while it is loaded.
        seed: of the run, for policies that draw.
        scene: that the run is in, for policies that know the tables.
        interface: how a class with CALVIN's own interface is called.
    """

    ckpt: str
    options: Mapping[str, Any]
    trust: bool = False
    seed: int = 0
    scene: str = "D"
    interface: Interface = field(default_factory=Interface)

    @property
    def path(self) -> Path:
        """The text as a path."""
        return Path(self.ckpt)

    def check_options(self, known: Iterable[str]) -> None:
        """Raise an UnknownNameError for the first option that is not known."""
        names = tuple(known)
        for option in self.options:
            if option not in names:
                raise UnknownNameError(f"option of {self.ckpt}", option, names or ("(none)",))

    def metadata(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Facts for the run's header: these and those that every kind has."""
        options = {name: jsonable(value) for name, value in self.options.items()}
        return {"kind": kind, "ckpt": self.ckpt, "options": options, **facts}


class PolicyLoader(Protocol):
    """Loads policies: an entry point in `calvin_eval.servers`, named like a scheme of addresses.

    A module with these functions is one.
    """

    def declare(self, source: Source) -> tuple[Settings, Settings] | None:
        """Observation and action stages, read without the weights; None if that cannot be done."""

    def load(self, source: Source) -> LoadedPolicy:
        """Load the policy.

        Raises:
            CheckpointError: it cannot be loaded, or not without `source.trust`.
        """


class CheckpointLoader(PolicyLoader, Protocol):
    """Loads one kind of file or folder: an entry point in `calvin_eval.loaders`."""

    def recognises(self, path: Path) -> bool:
        """Whether an existing path, of no kind that calvin-eval knows, is of this kind.

        Must look at names and content only: the path may be a stranger's.
        """


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file's identity: SHA-256 as hexadecimal text, size in bytes."""

    sha256: str
    size: int

    def __str__(self) -> str:
        """For a description: `sha256 1a2b3c4d5e6f, 3.1 MB`."""
        return f"sha256 {self.sha256[:12]}, {readable_size(self.size)}"

    def metadata(self) -> dict[str, Any]:
        """The same, for a header."""
        return {"sha256": self.sha256, "size": self.size}


def file_facts(path: Path) -> FileFacts:
    """Hash and measure a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return FileFacts(sha256=digest.hexdigest(), size=size)


def readable_size(size: int) -> str:
    """A size in bytes, kB, MB or GB (powers of ten), with at most one decimal."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def jsonable(value: Any) -> Any:
    """The value if JSON can hold it, else its `repr`."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)
    return value
