"""What the convention check says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One suspicious thing about a policy's actions.

    Attributes:
        code: a name for programs, for example `position-scale`.
        severity: `error` if scores will mean nothing, `warning` if the user has to judge,
            `info` if it is worth knowing.
        sentence: what was found, in one plain sentence.
        remedy: the setting that would repair it; empty if none is known.
    """

    code: str
    severity: Severity
    sentence: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line."""
        tail = f" Fix it by {self.remedy}." if self.remedy else ""
        return f"{self.severity}: {self.sentence}{tail}"

    def as_dict(self) -> dict[str, str]:
        """JSON form."""
        return asdict(self)
