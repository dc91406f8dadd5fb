"""What verifying a run finds, and the part of it that needs no simulator.

Metrics, verdict and upstream's file are computed again from the journal and compared with the
stored ones. A deviation's `expected` is what follows from the evidence (the journal, the actions,
the rules), its `found` what the record says.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from calvin_eval.errors import RunFolderError
from calvin_eval.results.conclude import conclude
from calvin_eval.results.header import HEADER
from calvin_eval.results.ledger import Claim, ledger_to_json
from calvin_eval.results.signatures import Signature
from calvin_eval.results.store import JOURNAL, RunFolder

CheckStatus: TypeAlias = Literal["verified", "deviates", "unchecked"]

UNCOMPUTED = ("profile.json", "diagnosis.json", "report.*", "tasks.csv", "videos/*")
"""Files that a run may have and that nothing here is compared with."""

_SHOWN = 120  # characters of a value that a message quotes
_TOLERANCE = 1e-9  # NumPy's versions add up in different orders


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One thing that is not as it is recorded.

    Attributes:
        what: which thing.
        expected: what it has to be.
        found: what the record says.
        position: of the subtask in the chain, from 0; None if it is none of one subtask.
        step: of the subtask, from 1; None if it is none of one step.
    """

    what: str
    expected: str
    found: str
    position: int | None = None
    step: int | None = None

    def __str__(self) -> str:
        """One line."""
        place = ""
        if self.position is not None:
            place = f"subtask {self.position + 1}"
            place += f", step {self.step}: " if self.step is not None else ": "
        return f"{place}{self.what}: expected {self.expected}; found {self.found}"


@dataclass(frozen=True, kw_only=True)
class ChainCheck:
    """What became of one chain.

    Attributes:
        chain: its id.
        status: verified to the last bit, deviating, or not to be checked here.
        deviations: all of the first subtask that has any.
        reason: why it could not be checked, and what would help.
        steps: actions that were simulated.
    """

    chain: int
    status: CheckStatus
    deviations: tuple[Deviation, ...] = ()
    reason: str | None = None
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found in a run.

    Attributes:
        recorded: chains that have a record.
        planned: chains that the run was meant to have.
        chains: those that were looked at, in order of their ids.
        deviations: of the run as a whole: summary, verdict, chain list, instructions.
        notes: what could not be checked of the run as a whole, and what would help.
        claim: the run's score; None if records and header do not belong together.
        signature: of the bundle; None if there is none.
        missing: what the run names by a hash and was not at hand: `chain list`, `instructions`.
    """

    recorded: int
    planned: int
    chains: tuple[ChainCheck, ...]
    deviations: tuple[Deviation, ...]
    notes: tuple[str, ...]
    claim: Claim | None
    signature: Signature | None = None
    missing: tuple[str, ...] = ()

    def signed(self, signature: Signature | None, *, wanted: bool) -> Verification:
        """The same with what is known of the bundle's signature.

        Args:
            signature: beside the bundle, if there is one.
            wanted: whether one by a known signer was asked for.
        """
        if signature is None:
            problem = "none beside the bundle" if wanted else None
        else:
            problem = signature.problem
        if problem is None:
            return replace(self, signature=signature)
        expected = "one of this file, by one of the signers" if wanted else "one of this file"
        deviation = Deviation(what="the signature", expected=expected, found=problem)
        return replace(self, signature=signature, deviations=(deviation, *self.deviations))

    def of(self, status: CheckStatus) -> tuple[ChainCheck, ...]:
        """The chains with this status."""
        return tuple(check for check in self.chains if check.status == status)

    def problems(self) -> tuple[str, ...]:
        """A line for everything that deviates, of the run as a whole first."""
        of_chains = (
            f"chain {check.chain}: {deviation}"
            for check in self.of("deviates")
            for deviation in check.deviations
        )
        return (*map(str, self.deviations), *of_chains)

    @property
    def status(self) -> CheckStatus:
        """`deviates` if anything does; `verified` if nothing does and every chain was checked."""
        if self.deviations or self.of("deviates"):
            return "deviates"
        return "unchecked" if self.of("unchecked") or not self.chains else "verified"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        counts = {status: len(self.of(status)) for status in get_args(CheckStatus)}
        known = {**asdict(self), "ledger": ledger_to_json()}
        return {"status": self.status, "counts": counts, **known}


def recheck_derived(folder: RunFolder) -> Iterator[Deviation]:
    """Conclude the run once more, in a copy, and compare what is written with what is stored.

    A run that is over has a verdict and a summary; of one that is not, whatever there is of them
    is compared.

    Args:
        folder: the run; nothing in it is changed.
    """
    with tempfile.TemporaryDirectory(prefix="calvin-eval-") as place:
        copy = RunFolder(Path(place))
        for name in (HEADER, JOURNAL):
            if (folder.path / name).exists():
                shutil.copyfile(folder.path / name, copy.path / name)
        try:
            conclude(copy)
        except (RunFolderError, ValueError, TypeError, RecursionError) as error:
            yield Deviation(what="the run", expected="one that adds up", found=str(error))
            return
        names = sorted(path.name for path in copy.path.glob("*.json"))
        over = folder.status == "finished" or _is_stored(folder, "summary.json")
        for name in names:
            if over or _is_stored(folder, name):
                yield from _compare_file(folder, copy, name)
    for name in ("results.json",):  # there for complete runs only
        if name not in names and (folder.path / name).exists():
            yield Deviation(what=name, expected="no such file: the run is incomplete", found="one")


def _is_stored(folder: RunFolder, name: str) -> bool:
    """Whether a run has this file; of the header, whether it has the verdict."""
    if name == HEADER:
        return folder.document().get("verdict") is not None
    return (folder.path / name).exists()


def _compare_file(folder: RunFolder, copy: RunFolder, name: str) -> Iterator[Deviation]:
    expected = copy.read_json(name)
    try:
        found = folder.read_json(name)
    except (RunFolderError, RecursionError) as error:
        yield Deviation(what=name, expected="metrics in JSON", found=str(error))
        return
    if name == HEADER:  # its other entries are copies of themselves
        expected, found = {"verdict": expected.get("verdict")}, {"verdict": found.get("verdict")}
    yield from _compare(name, _without_new_remarks(expected, found), found)


def _without_new_remarks(expected: Any, found: Any) -> Any:
    """Without the verdict's remarks where none are stored: older runs have none there."""
    stored = found.get("verdict") if isinstance(found, dict) else None
    if not isinstance(stored, dict) or "remarks" in stored or "verdict" not in expected:
        return expected
    kept = {key: value for key, value in expected["verdict"].items() if key != "remarks"}
    return {**expected, "verdict": kept}


def _compare(name: str, expected: Any, found: Any) -> Iterator[Deviation]:
    """Every leaf in which two JSON values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*expected, *found]):
            inner = expected.get(key, _NOTHING), found.get(key, _NOTHING)
            yield from _compare(f"{name}: {key}", *inner)
        return
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, inner in enumerate(zip(expected, found, strict=True)):
            yield from _compare(f"{name}[{i}]", *inner)
        return
    if not _equal(expected, found):
        yield Deviation(what=name, expected=_brief(expected), found=_brief(found))


class _Nothing:
    """Stands for an entry that is not there."""


_NOTHING = _Nothing()


def _equal(a: Any, b: Any) -> bool:
    if type(a) is float and type(b) is float:
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(a) is type(b) and bool(a == b)


def _brief(value: Any) -> str:
    text = "nothing" if value is _NOTHING else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
