"""Where asset packs lie, and how the official one gets there.

Upstream's files are never part of this package. They are found by an explicit path, in the
folder that `CALVIN_EVAL_ASSETS` names, or in the user's cache, which `import_pack` fills from a
checkout and `pull_pack` from the web. Nothing is put in place unless every hash is right.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote, urlsplit

from calvin_eval.errors import AssetError
from calvin_eval.sim.assets.download import DownloadOptions, download
from calvin_eval.sim.assets.manifest import (
    BUILTIN_ROOT,
    REMEDY,
    Manifest,
    ManifestFile,
    Problem,
    builtin_manifest,
    explain,
    fingerprint,
    folder_manifest,
    official_manifest,
    verify_pack,
)
from calvin_eval.sim.assets.staging import filling

__all__ = [
    "ASSETS_VARIABLE",
    "CACHE_VARIABLE",
    "DEFAULT_BASE_URL",
    "Candidate",
    "DownloadOptions",
    "Manifest",
    "ManifestFile",
    "Problem",
    "Progress",
    "builtin_manifest",
    "cache_root",
    "explain",
    "find_official",
    "fingerprint",
    "identify",
    "import_pack",
    "official_candidates",
    "official_manifest",
    "pull_pack",
    "verify_pack",
]

CACHE_VARIABLE = "CALVIN_EVAL_CACHE"
ASSETS_VARIABLE = "CALVIN_EVAL_ASSETS"
DEFAULT_BASE_URL = "https://raw.githubusercontent.com/{repo}/{commit}/{path}"

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the current file, the bytes done so far and the bytes in all."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A place where the official pack may lie, and who says so."""

    origin: Literal["argument", "environment", "cache"]
    path: Path


def cache_root() -> Path:
    """The user's cache folder for calvin-eval, or what `CALVIN_EVAL_CACHE` names; may not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("calvin-eval", appauthor=False))


def official_candidates(explicit: str | os.PathLike[str] | None = None) -> list[Candidate]:
    """Where to look for the official pack, first choice first."""
    named = os.environ.get(ASSETS_VARIABLE)
    candidates = [Candidate(origin="cache", path=cache_root() / "official")]
    if named:
        candidates.insert(0, Candidate(origin="environment", path=Path(named).expanduser()))
    if explicit is not None:
        candidates.insert(0, Candidate(origin="argument", path=Path(explicit).expanduser()))
    return candidates


def find_official(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the first candidate, unverified.

    A place that somebody named is not passed over for another: if it is absent, that is an error.

    Raises:
        AssetError: the folder does not exist.
    """
    first = official_candidates(explicit)[0]
    if first.path.is_dir():
        return first.path
    remedy = {
        "argument": "Give the path of a checkout of mees/calvin with its submodule.",
        "environment": f"Correct the variable {ASSETS_VARIABLE}, which names it, or unset it.",
        "cache": REMEDY,
    }[first.origin]
    raise AssetError(
        f"expected the official asset pack in {first.path}, found no such folder. {remedy}"
    )


def identify(
    assets: str | os.PathLike[str] = "builtin", *, verify: bool = True
) -> tuple[str, Path, str]:
    """Name, folder and fingerprint of a pack.

    Args:
        assets: `builtin`, `official`, or the path of a checkout of `mees/calvin`.
        verify: refuse a pack whose files are not upstream's. Without it such a pack goes by the
            name `custom` and has the fingerprint of what is in it.

    Raises:
        AssetError: the pack is not there, or (with `verify`) a file is missing or altered.
    """
    if os.fspath(assets) == "builtin":
        return "builtin", BUILTIN_ROOT, fingerprint(builtin_manifest())
    root = find_official(None if os.fspath(assets) == "official" else assets)
    manifest = official_manifest()
    problems = verify_pack(root, manifest)
    if not problems:
        return "official", root, fingerprint(manifest)
    if verify:
        raise AssetError(explain(root, problems, manifest))
    return "custom", root, fingerprint(folder_manifest("custom", root))


def import_pack(
    source: str | os.PathLike[str],
    dest: Path | None = None,
    progress: Progress | None = None,
    *,
    manifest: Manifest | None = None,
) -> Path:
    """Copy the pack's files, and nothing else, out of a checkout.

    Args:
        source: a checkout of `mees/calvin` with its submodule.
        dest: folder to make; the user's cache by default. A pack that is there already is left
            alone if it is sound and replaced if it is damaged.
        progress: called after every file.
        manifest: of the official pack by default.

    Returns:
        The folder.

    Raises:
        AssetError: a file of the source is missing or altered (nothing is changed then), or
            `dest` holds something else or cannot be written.
    """
    root, manifest = Path(source).expanduser(), manifest or official_manifest()
    if not root.is_dir():
        raise AssetError(f"expected a checkout of mees/calvin at {root}, found no such folder.")
    problems = verify_pack(root, manifest)
    if problems:
        raise AssetError(explain(root, problems, manifest))
    with filling(dest or cache_root() / "official", manifest) as (staging, needed):
        done = manifest.size - sum(entry.size for entry in needed)
        for entry in needed:
            target = staging / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / entry.path, target)
            done += entry.size
            if progress:
                progress(entry.path, done, manifest.size)
    return dest or cache_root() / "official"


def pull_pack(
    dest: Path | None = None,
    *,
    base_url: str = DEFAULT_BASE_URL,
    progress: Progress | None = None,
    manifest: Manifest | None = None,
    options: DownloadOptions | None = None,
) -> Path:
    """Download the pack's files; a call after an interrupted one continues it.

    Args:
        dest: as in `import_pack`.
        base_url: http(s) address with the fields {repo}, {commit} and {path}; without {path}
            the three are appended to it.
        progress: called with every block of bytes.
        manifest: of the official pack by default.
        options: timeout and retries.

    Returns:
        The folder.

    Raises:
        AssetError: a file cannot be had or is not the right one, or `dest` holds something
            else or cannot be written.
    """
    manifest, options = manifest or official_manifest(), options or DownloadOptions()
    urls = {entry.path: _url(base_url, manifest, entry) for entry in manifest.files}
    with filling(dest or cache_root() / "official", manifest) as (staging, needed):
        done = manifest.size - sum(entry.size for entry in needed)
        for entry in needed:
            target = staging / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            report = partial(_report, progress, entry.path, done, manifest.size)
            download(urls[entry.path], target, entry, options, report)
            done += entry.size
            report(entry.size)
    return dest or cache_root() / "official"


def _report(progress: Progress | None, path: str, before: int, total: int, here: int) -> None:
    if progress:
        progress(path, before + here, total)


def _url(base_url: str, manifest: Manifest, entry: ManifestFile) -> str:
    template = (
        base_url if "{path}" in base_url else f"{base_url.rstrip('/')}/{{repo}}/{{commit}}/{{path}}"
    )
    if urlsplit(template).scheme not in ("http", "https"):
        raise AssetError(
            f"expected a base URL that begins with https:// or http://, found {base_url!r}. "
            "For files on this machine run `calvin-eval assets import PATH`."
        )
    if entry.repo not in manifest.sources:
        raise AssetError(f"{entry.path}: the manifest names no repository to download it from.")
    fields = {"repo": entry.repo, "commit": manifest.sources[entry.repo], "path": entry.source}
    for name, value in fields.items():
        template = template.replace(f"{{{name}}}", quote(value))
    return template
