"""A run as one file that can be published, and that anybody can verify without the policy.

A bundle is a zip file of the run folder's files, the model card and a manifest with the SHA-256
of all of them. The same folder gives the same bytes. The manifest tells accidents from intent no
better than any checksum does: whoever changes a record can write another manifest, and is found
out by simulating the actions again (`rollouts/verify/verify.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.archive import MAX_FILES, MAX_TOTAL_BYTES
from calvin_eval.results.header import HEADER
from calvin_eval.results.model_card import ModelCard
from calvin_eval.results.schema import SCHEMA_VERSION
from calvin_eval.results.store import JOURNAL, RunFolder

BUNDLE_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
CARD: Final = "meta.json"
VIDEOS: Final = "videos"

ALLOWED: Final = re.compile(
    r"(header|summary|results|profile|diagnosis|meta|manifest)\.json|chains\.jsonl|tasks\.csv"
    r"|report\.(html|md|json|csv|svg|tex)"
    r"|actions/[0-9]{4,9}\.npz"
    r"|videos/[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\.(mp4|gif|webp)"
)
"""The names that a bundle may have."""

_DERIVED: Final = ("results.json", "profile.json", "diagnosis.json", "tasks.csv")
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can have
_UNIX: Final = 3
_REGULAR: Final = 0o100644 << 16
_PACKED: Final = (".npz", ".mp4", ".webp", ".gif")
_CHUNK: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What was written.

    Attributes:
        path: of the bundle.
        files: names in it, manifest and card included.
        sha256: of the bundle itself.
    """

    path: Path
    files: tuple[str, ...]
    sha256: str


def write_bundle(
    folder: RunFolder,
    card: ModelCard,
    target: str | os.PathLike[str],
    *,
    videos: Sequence[str] = (),
    overwrite: bool = False,
) -> BundleInfo:
    """Pack a run that is over.

    Args:
        folder: the run.
        card: what to say about the policy.
        target: the zip file to write.
        videos: glob patterns of files in the run's `videos/`; none by default.
        overwrite: replace an older file of that name.

    Raises:
        UsageError: the card is for another split, no video matches, or the target exists.
        RunFolderError: the run is not over, or a completed chain has no actions.
    """
    path = Path(target)
    if path.exists() and not overwrite:
        raise UsageError(f"expected a new file for the bundle, found {path}; try --overwrite")
    sources = _contents(folder, card, videos)
    try:
        digest = _write_zip(path, sources)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error}") from error
    except zipfile.LargeZipFile as error:
        raise UsageError(
            f"expected at most {MAX_TOTAL_BYTES} bytes for a bundle; choose fewer videos"
        ) from error
    return BundleInfo(path=path, files=tuple(sorted(sources)), sha256=digest)


def _contents(folder: RunFolder, card: ModelCard, videos: Sequence[str]) -> dict[str, Path | bytes]:
    """Names in the bundle and where their content is, or the content itself."""
    _check_card(folder, card)
    sources: dict[str, Path | bytes] = dict(_run_files(folder))
    sources |= {f"{VIDEOS}/{video.name}": video for video in _chosen(folder, videos)}
    sources[CARD] = _as_text(card.to_json())
    if len(sources) >= MAX_FILES:
        raise UsageError(
            f"expected at most {MAX_FILES - 1} files for a bundle; choose fewer videos"
        )
    sources[MANIFEST] = _manifest(sources)
    return sources


def _check_card(folder: RunFolder, card: ModelCard) -> None:
    if folder.status not in ("finished", "interrupted"):
        raise RunFolderError(
            f"expected a run that is over in {folder.path}, found status {folder.status!r}. "
            "Complete it with --resume first."
        )
    check_split(folder, card)


def check_split(folder: RunFolder, card: ModelCard) -> None:
    """Raise UsageError unless a card is for the run's split, or says another training set."""
    split = folder.header().config.split
    if card.training_split not in (split, "other"):
        raise UsageError(
            f"model card: expected training_split {split!r}, as the run's --split, or 'other'; "
            f"found {card.training_split!r}"
        )


def _run_files(folder: RunFolder) -> Iterator[tuple[str, Path]]:
    """Names and places of what belongs to the run itself."""
    for name in (HEADER, JOURNAL, "summary.json"):
        if not (folder.path / name).is_file():
            raise RunFolderError(
                f"expected {name} in {folder.path}, found none. Complete the run with --resume."
            )
        yield name, folder.path / name
    for path in (*(folder.path / name for name in _DERIVED), *folder.path.glob("report.*")):
        if path.is_file() and ALLOWED.fullmatch(path.name):
            yield path.name, path
    for record in folder.records():
        path = folder.actions_path(record.chain)
        if path.is_file():
            yield f"actions/{path.name}", path
        elif record.status == "completed":
            raise RunFolderError(
                f"expected the actions of chain {record.chain} in {path}, found none: nobody "
                "could verify it. Run it again into a new folder."
            )


def _chosen(folder: RunFolder, patterns: Sequence[str]) -> list[Path]:
    """The videos that match, in order of their names."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = [
            path
            for path in (folder.path / VIDEOS).glob(pattern.removeprefix(f"{VIDEOS}/"))
            if path.is_file() and ALLOWED.fullmatch(f"{VIDEOS}/{path.name}")
        ]
        if not matches:
            raise UsageError(
                f"expected mp4, gif or webp files {pattern!r} in {folder.path / VIDEOS}, found none"
            )
        found.update(matches)
    return sorted(found)


def _manifest(sources: Mapping[str, Path | bytes]) -> bytes:
    files = {}
    for name, source in sorted(sources.items()):
        digest, size = hashlib.sha256(), 0
        for piece in _pieces(source):
            digest.update(piece)
            size += len(piece)
        files[name] = {"sha256": digest.hexdigest(), "bytes": size}
    return _as_text(
        {"bundle_version": BUNDLE_VERSION, "schema_version": SCHEMA_VERSION, "files": files}
    )


def _write_zip(path: Path, sources: Mapping[str, Path | bytes]) -> str:
    """Write all files in order of their names, or nothing; returns the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
        try:
            with zipfile.ZipFile(file, "w", allowZip64=False) as archive:
                for name, source in sorted(sources.items()):
                    _add(archive, name, source)
            file.seek(0)
            digest = hashlib.sha256()
            while piece := file.read(_CHUNK):
                digest.update(piece)
            temporary.chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return digest.hexdigest()


def _add(archive: zipfile.ZipFile, name: str, source: Path | bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system, entry.external_attr = _UNIX, _REGULAR
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(_PACKED) else zipfile.ZIP_DEFLATED
    entry.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size
    with archive.open(entry, "w") as file:
        for piece in _pieces(source):
            file.write(piece)


def _pieces(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _as_text(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
