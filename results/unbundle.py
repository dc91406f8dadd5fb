"""Reading a bundle that somebody else may have made: checked first, then unpacked."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import parse_json
from calvin_eval.results.archive import (
    MAX_ACTIONS_BYTES,
    MAX_FILE_BYTES,
    MAX_TOTAL_BYTES,
    BundleError,
    check_actions_file,
    chunks,
    open_zip,
)
from calvin_eval.results.bundle import ALLOWED, BUNDLE_VERSION, CARD, MANIFEST, VIDEOS, check_split
from calvin_eval.results.header import HEADER
from calvin_eval.results.model_card import parse_model_card
from calvin_eval.results.schema import SCHEMA_VERSION
from calvin_eval.results.store import JOURNAL, RunFolder

_REQUIRED: Final = (HEADER, JOURNAL, "summary.json", CARD)
_MAX_MANIFEST: Final = 16 * 2**20


@contextmanager
def read_bundle(path: str | os.PathLike[str]) -> Iterator[RunFolder]:
    """Check a bundle and unpack it for as long as the context lasts.

    Raises:
        UsageError: there is no such file.
        BundleError: it is not a bundle, does not agree with its manifest, is of another version,
            or would do harm.
        RunFolderError: what is in it is no run of this schema version.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"expected a bundle or a run folder, found nothing at {source}")
    with tempfile.TemporaryDirectory(prefix="calvin-eval-") as place:
        root = Path(place) / "run"
        (root / "actions").mkdir(parents=True)
        (root / VIDEOS).mkdir()
        with open_zip(source, ALLOWED) as archive:
            _unpack(archive, root, source)
        yield _checked_run(root, source)


def _unpack(archive: zipfile.ZipFile, root: Path, source: Path) -> None:
    files = _read_manifest(archive, source)
    names = set(archive.namelist()) - {MANIFEST}
    if missing := sorted({*files, *_REQUIRED} - names):
        raise BundleError(f"{source}: expected {_some(missing)}, found no such files in it")
    if extra := sorted(names - set(files)):
        raise BundleError(f"{source}: expected only what {MANIFEST} lists, found {_some(extra)}")
    room = MAX_TOTAL_BYTES
    for name, entry in files.items():
        digest = hashlib.sha256()
        actions = name.startswith("actions/")
        with open(root / name, "wb") as file:
            for piece in chunks(archive, name, MAX_ACTIONS_BYTES if actions else MAX_FILE_BYTES):
                digest.update(piece)
                if (room := room - len(piece)) < 0:
                    raise BundleError(f"{source}: more than {MAX_TOTAL_BYTES} bytes unpacked")
                file.write(piece)
        found = {"sha256": digest.hexdigest(), "bytes": (root / name).stat().st_size}
        if found != entry:
            raise BundleError(
                f"{source}: {name} was altered after the bundle was made: expected "
                f"{_brief(entry)} as {MANIFEST} says, found {_brief(found)}"
            )
        if actions:
            check_actions_file((root / name).read_bytes(), name)


def _read_manifest(archive: zipfile.ZipFile, source: Path) -> dict[str, Any]:
    """What each file should be: `{name: {"sha256": ..., "bytes": ...}}`."""
    try:
        manifest = parse_json(b"".join(chunks(archive, MANIFEST, _MAX_MANIFEST)))
        version, schema = manifest["bundle_version"], manifest["schema_version"]
        files = manifest["files"]
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{source}: {MANIFEST} is damaged: {error}") from error
    if (version, schema) != (BUNDLE_VERSION, SCHEMA_VERSION):
        raise BundleError(
            f"{source}: expected bundle version {BUNDLE_VERSION} with schema version "
            f"{SCHEMA_VERSION}, found {version!r} with {schema!r}. Read it with the calvin-eval "
            "that wrote it."
        )
    if not isinstance(files, dict) or not all(ALLOWED.fullmatch(name) for name in files):
        raise BundleError(f"{source}: {MANIFEST} is damaged: expected the names of its files")
    return files


def _checked_run(root: Path, source: Path) -> RunFolder:
    try:
        folder = RunFolder.open(root)
        check_split(folder, parse_model_card(folder.read_json(CARD), f"{source}, {CARD}"))
    except RecursionError as error:
        raise BundleError(f"{source}: JSON of endless depth") from error
    except UsageError as error:
        raise BundleError(str(error)) from error
    return folder


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _brief(entry: Any) -> str:
    if not isinstance(entry, dict):
        return repr(entry)[:80]
    return f"{entry.get('bytes')} bytes with SHA-256 {str(entry.get('sha256'))[:12]}"
