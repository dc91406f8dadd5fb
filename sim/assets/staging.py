"""Filling a pack's folder: in a staging folder beside it, and into place when all is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calvin_eval.errors import AssetError
from calvin_eval.sim.assets.manifest import (
    Manifest,
    ManifestFile,
    explain,
    file_sha256,
    verify_pack,
)


@contextmanager
def filling(target: Path, manifest: Manifest) -> Iterator[tuple[Path, list[ManifestFile]]]:
    """A staging folder beside the target and the files it lacks; the target's after the block.

    The staging folder outlives an error, so that the next attempt finds what is there.
    """
    staging = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target):
            if target.is_dir() and not verify_pack(target, manifest):
                yield staging, []
                return
            _refuse_foreign(target, manifest)
            _keep_sound(target, staging, manifest)
            yield staging, [e for e in manifest.files if not _is_sound(staging, e)]
            _install(staging, target, manifest)
    except OSError as error:
        raise AssetError(
            f"cannot fill {target}: {error}. Make room, or name another cache folder with "
            "CALVIN_EVAL_CACHE."
        ) from error


def _is_sound(root: Path, entry: ManifestFile) -> bool:
    return file_sha256(root / entry.path) == entry.sha256


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]


def _refuse_foreign(target: Path, manifest: Manifest) -> None:
    known = {target / entry.path for entry in manifest.files}
    foreign = [p for p in (_files(target) if target.is_dir() else []) if p not in known]
    if foreign or (target.exists() and not target.is_dir()):
        raise AssetError(
            f"expected {target} to be absent or an asset pack, found "
            f"{foreign[0] if foreign else 'a file'} there. Move it away, or name another folder."
        )


def _keep_sound(target: Path, staging: Path, manifest: Manifest) -> None:
    """Seed the staging folder with what is right in a damaged pack."""
    staging.mkdir(exist_ok=True)
    for entry in manifest.files:
        if not _is_sound(staging, entry) and _is_sound(target, entry):
            (staging / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target / entry.path, staging / entry.path)


def _install(staging: Path, target: Path, manifest: Manifest) -> None:
    known = {staging / entry.path for entry in manifest.files}
    for leftover in (path for path in _files(staging) if path not in known):
        leftover.unlink()
    problems = verify_pack(staging, manifest)
    if problems:
        raise AssetError(explain(staging, problems, manifest))
    old = target.with_name(f"{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Only one process fills a folder at a time, as far as the platform has locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(target.with_name(f"{target.name}.lock"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AssetError(
                f"expected to be the only one to fill {target}, found another process at it. "
                "Wait for it to finish."
            ) from error
        yield
