"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from calvin_eval.errors import CalvinEvalError
from calvin_eval.extras import MissingExtraError, install_command

Status: TypeAlias = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        name: of the thing, in a word or two.
        status: `error` if a run will fail or its numbers mean nothing; `warning` if it will be
            slow, or its numbers are not to be compared with other machines'.
        detail: what was found.
        remedy: what to type or to do, one per line; empty if all is well.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON form."""
        return asdict(self)


def ok(name: str, detail: str) -> CheckResult:
    """All is well."""
    return CheckResult(name=name, status="ok", detail=detail)


def warning(name: str, detail: str, remedy: str) -> CheckResult:
    """A run works, with a reservation."""
    return CheckResult(name=name, status="warning", detail=detail, remedy=remedy)


def error(name: str, detail: str, remedy: str) -> CheckResult:
    """A run fails or means nothing."""
    return CheckResult(name=name, status="error", detail=detail, remedy=remedy)


def from_exception(name: str, exception: BaseException) -> CheckResult:
    """A check that could not be made; our own messages end with their remedy."""
    text = str(exception)
    if isinstance(exception, CalvinEvalError):
        if "\n" in text:
            first, *_, remedy = text.splitlines()
            return error(name, first.rstrip(":"), remedy)
        if isinstance(exception, MissingExtraError):
            return error(name, text, install_command(exception.extra))
        detail, _, remedy = text.partition(". ")
        return error(name, detail, remedy)
    if isinstance(exception, ModuleNotFoundError) and exception.name:
        return error(name, f"cannot import {exception.name}", "pip install calvin-eval")
    return error(
        name,
        f"this check broke: {type(exception).__name__}: {text}",
        "Please report this with the output of `calvin-eval doctor --json`.",
    )
