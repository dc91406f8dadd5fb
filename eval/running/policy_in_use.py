"""A loaded policy, wherever it is, as a run has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calvin_eval.rollouts.hosts import FixedPolicy, PolicyHost
from calvin_eval.rollouts.policy_log import PolicyLog
from calvin_eval.rollouts.printed import PrintedHere, speaking
from calvin_eval.rollouts.worker import PolicyLink
from calvin_eval.wrappers.loaders import LoadedPolicy
from calvin_eval.wrappers.policy import Requirements


@dataclass(frozen=True, kw_only=True)
class PolicyInUse:
    """A loaded policy, wherever it is.

    Attributes:
        hosts: its processes, or where else workers find it.
        description: one line for the user.
        metadata: facts for the header.
        log: of what it prints.
    """

    hosts: Sequence[PolicyHost]
    description: str
    metadata: Mapping[str, Any]
    requirements: Requirements
    log: PolicyLog = field(default_factory=PolicyLog)

    @classmethod
    def fixed(cls, loaded: LoadedPolicy, link: PolicyLink) -> PolicyInUse:
        """A policy without processes of its own: workers load it, or find it by the link."""
        return cls._of(loaded, FixedPolicy(link), PolicyLog())

    @classmethod
    def here(cls, load: Callable[[], tuple[LoadedPolicy, PolicyLink]]) -> PolicyInUse:
        """A policy of this process, where what it prints is listened to from its loading on."""
        log = PolicyLog()
        prints = PrintedHere(log)
        try:
            with speaking():
                loaded, link = load()
        except BaseException:
            prints.close()
            raise
        return cls._of(loaded, FixedPolicy(link, prints), log)

    @classmethod
    def _of(cls, loaded: LoadedPolicy, host: FixedPolicy, log: PolicyLog) -> PolicyInUse:
        return cls(
            hosts=(host,),
            description=loaded.description,
            metadata=loaded.metadata,
            requirements=host.link.requirements,
            log=log,
        )

    def report(self) -> list[Mapping[str, Any]]:
        """What its instances say of the run, as far as they do."""
        return [entry for host in self.hosts for entry in host.report()]

    def close(self) -> None:
        """End its processes."""
        for host in self.hosts:
            host.close()
        self.log.close()
