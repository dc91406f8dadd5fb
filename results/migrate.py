"""Reading runs that an older calvin-eval wrote.

A folder is never rewritten: header and records are brought to the present form each time they
are read. Whoever raises `SCHEMA_VERSION` enters here what leads from the version before to the
new one, and stores a run of the new version in `tests/golden/schema_N`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from calvin_eval.errors import RunFolderError
from calvin_eval.results.header import written_by
from calvin_eval.results.schema import SCHEMA_VERSION

Step: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


def _same(data: dict[str, Any]) -> dict[str, Any]:
    return data


@dataclass(frozen=True, kw_only=True)
class Migration:
    """From one schema version to the next.

    Each function gets JSON values of the older version, which it may change, and returns those of
    the newer one.

    Attributes:
        header: of the whole header; the schema version itself is taken care of.
        record: of one chain record.
    """

    header: Step = _same
    record: Step = _same


MIGRATIONS: dict[int, Migration] = {}
"""Per schema version what leads to the next one; there is only version 1 so far."""


def check_version(header: Mapping[str, Any], where: str) -> int:
    """The schema version of a stored header.

    Args:
        header: as it is on disk.
        where: its path, for the message.

    Raises:
        RunFolderError: this version cannot be read; says which calvin-eval can.
    """
    version = header.get("schema_version")
    expected = f"{where}: expected schema version {SCHEMA_VERSION}, found {version!r}"
    writer = written_by(header)
    if type(version) is not int:
        raise RunFolderError(f"{expected}. Is this the header of a run? Restore the file.")
    if version > SCHEMA_VERSION:
        least = f"{writer} or newer" if writer else "the one that wrote this run, or a newer one"
        raise RunFolderError(f"{expected}: that needs a newer calvin-eval. Install {least}.")
    if any(number not in MIGRATIONS for number in range(version, SCHEMA_VERSION)):
        raise RunFolderError(
            f"{expected}: that is too old for this calvin-eval. Read this run with "
            f"{writer or 'the calvin-eval that wrote it'}."
        )
    return version


def migrate_header(header: dict[str, Any], where: str) -> dict[str, Any]:
    """A stored header in the present form; raises RunFolderError like `check_version`."""
    for number in range(check_version(header, where), SCHEMA_VERSION):
        header = _apply(MIGRATIONS[number].header, header, f"{where}: damaged header", number)
        header["schema_version"] = number + 1
    return header


def migrate_record(data: object, version: int) -> object:
    """The JSON of a chain record in the present form.

    Args:
        data: as it is in the journal.
        version: that the run was written in, which `check_version` has let pass.

    Raises:
        RunFolderError: it is no record of that version.
    """
    for number in range(version, SCHEMA_VERSION):
        if isinstance(data, dict):  # else the schema says what is wrong
            data = _apply(MIGRATIONS[number].record, data, "damaged chain record", number)
    return data


def _apply(step: Step, data: dict[str, Any], what: str, version: int) -> dict[str, Any]:
    try:
        return step(data)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{what}: expected one of schema version {version}, found one that cannot be read as "
            f"such ({type(error).__name__}: {error}). Restore the file."
        ) from error
