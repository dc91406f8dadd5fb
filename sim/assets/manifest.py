"""Manifests of asset packs: which files make up a pack, and the hash of each.

A manifest holds facts about files, never the files. The official one lists the files of upstream
that the simulator reads; the built-in one is computed from what is installed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from calvin_eval.errors import AssetError

BUILTIN_ROOT = Path(__file__).parents[1] / "builtin"
PYBULLET_DATA = "pybullet_data"
"""Origin of files that come with PyBullet instead of lying in the pack's folder."""

REMEDY = "Run `calvin-eval assets pull` or `calvin-eval assets import PATH`."

_OFFICIAL = Path(__file__).parents[1] / "data" / "official_manifest.json"
_SHARED_MESH = re.compile(r"""["']package://pybullet_data/([^"']+)["']""")
_NAME = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PACK_FOLDERS = ("calvin_env/conf", "calvin_env/data", "calvin_models/conf")
_NOT_DATA = (".py", ".pyc", ".md")
_SHOWN = 5  # problems spelled out in one message


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One file of a pack.

    Attributes:
        path: where it lies in the pack, relative, with forward slashes.
        sha256: of its bytes, in lower case hex.
        size: in bytes.
        repo: where it comes from: a GitHub `owner/name`, `pybullet_data`, or nothing.
        source: its path there.
    """

    path: str
    sha256: str
    size: int
    repo: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Raise AssetError for values that cannot be trusted as paths and hashes."""
        _require(_is_safe_path(self.path), "a relative path of plain names", self.path)
        _require(_matches(_SHA256, self.sha256), "a SHA-256 in lower case hex", self.sha256)
        _require(type(self.size) is int and self.size >= 0, "a size in bytes", self.size)
        known = self.repo in ("", PYBULLET_DATA) or _matches(_REPO, self.repo)
        _require(known, "a repository owner/name", self.repo)
        fine = _is_safe_path(self.source) if self.repo else self.source == ""
        _require(fine, "a source path where there is a repository", self.source)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A pack's files; `sources` maps each repository to its commit."""

    name: str
    files: tuple[ManifestFile, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise AssetError for a path that occurs twice or a repository without a commit."""
        paths = [entry.path for entry in self.files]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        _require(not twice, "each path once", twice)
        for repo, commit in self.sources.items():
            _require(_matches(_REPO, repo), "a repository owner/name", repo)
            _require(_matches(_COMMIT, commit), "a commit of 40 hex digits", commit)
        for entry in self.files:
            known = entry.repo in ("", PYBULLET_DATA, *self.sources)
            _require(known, "a repository among the sources", entry.repo)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file of a pack that is not as its manifest says; `found` is its actual hash, if any."""

    path: str
    kind: Literal["missing", "altered"]
    expected: str
    found: str | None = None

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.path}: missing (expected SHA-256 {self.expected})"
        return f"{self.path}: altered (expected SHA-256 {self.expected}, found {self.found})"


def parse_manifest(data: object, where: str) -> Manifest:
    """A manifest from its JSON values; raises AssetError, naming `where`, if it is not one."""
    keys = {"schema", "name", "license", "sources", "files"}
    if not isinstance(data, dict) or set(data) != keys or data["schema"] != 1:
        raise AssetError(f"{where}: expected a manifest of schema 1 with the keys {sorted(keys)}")
    try:
        files = tuple(ManifestFile(**entry) for entry in data["files"])
        return Manifest(name=data["name"], files=files, sources=dict(data["sources"]))
    except (TypeError, ValueError) as error:
        raise AssetError(f"{where}: not a manifest: {error}") from error


@lru_cache(maxsize=1)
def official_manifest() -> Manifest:
    """The files of upstream that the simulator reads, at the commits that are pinned."""
    try:
        return parse_manifest(json.loads(_OFFICIAL.read_text(encoding="utf-8")), _OFFICIAL.name)
    except (OSError, ValueError) as error:
        raise AssetError(
            f"cannot read {_OFFICIAL}: {error}. The installation is damaged: reinstall calvin-eval."
        ) from error


def builtin_manifest(root: Path = BUILTIN_ROOT) -> Manifest:
    """The built-in pack as it is installed.

    Its URDFs may name meshes `package://pybullet_data/...`; these meshes, their materials and
    textures are part of the pack, under `pybullet_data/`.

    Raises:
        AssetError: no such folder, or a mesh that this PyBullet does not have.
    """
    own = folder_manifest("builtin", root, folders=None).files
    names = {
        mesh
        for entry in own
        if entry.path.endswith(".urdf")
        for mesh in _SHARED_MESH.findall((root / entry.path).read_text(encoding="utf-8"))
    }
    shared = (_describe(name, _data_folder() / name, PYBULLET_DATA) for name in _closure(names))
    return Manifest(name="builtin", files=(*own, *shared))


def folder_manifest(
    name: str, root: Path, *, folders: Iterable[str] | None = _PACK_FOLDERS
) -> Manifest:
    """A manifest of what lies in a folder, code and hidden files aside.

    Args:
        name: of the manifest.
        root: the folder.
        folders: subfolders to look in; None for the whole folder.
    """
    if not root.is_dir():
        raise AssetError(f"expected an asset pack in the folder {root}, found no such folder")
    tops = [root] if folders is None else [root / folder for folder in folders]
    files = sorted(path for top in tops for path in top.rglob("*") if path.is_file())
    relative = [(path, path.relative_to(root)) for path in files]
    return Manifest(
        name=name,
        files=tuple(
            _describe(rel.as_posix(), path)
            for path, rel in relative
            if path.suffix not in _NOT_DATA and not any(p.startswith(".") for p in rel.parts)
        ),
    )


def fingerprint(manifest: Manifest) -> str:
    """SHA-256 over the sorted lines `sha256  path`; equal for packs with equal files."""
    lines = sorted(f"{entry.sha256}  {entry.path}\n" for entry in manifest.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def locate(root: Path, entry: ManifestFile) -> Path:
    """Where a pack's file lies on this machine."""
    return _data_folder() / entry.source if entry.repo == PYBULLET_DATA else root / entry.path


def verify_pack(root: Path, manifest: Manifest) -> list[Problem]:
    """Files that are missing or altered, in the manifest's order; extra files do not matter."""
    problems = []
    for entry in manifest.files:
        found = file_sha256(locate(root, entry))
        if found != entry.sha256:
            kind: Literal["missing", "altered"] = "altered" if found else "missing"
            problem = Problem(path=entry.path, kind=kind, expected=entry.sha256, found=found)
            problems.append(problem)
    return problems


def explain(root: Path, problems: list[Problem], manifest: Manifest) -> str:
    """What is wrong with a pack and what to do about it, as one message."""
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more")
    submodule = [entry.path for entry in manifest.files if entry.path.startswith("calvin_env/")]
    missing = {problem.path for problem in problems if problem.kind == "missing"}
    remedy = REMEDY
    if submodule and missing.issuperset(submodule) and len(missing) < len(manifest.files):
        remedy = "Fetch the submodule calvin_env: `git submodule update --init calvin_env`."
    return (
        f"expected the {manifest.name} asset pack in {root}, found {len(problems)} of "
        f"{len(manifest.files)} files missing or altered:\n  " + "\n  ".join(lines) + f"\n{remedy}"
    )


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file; None if there is no such file. Raises AssetError if unreadable."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise AssetError(f"cannot read the asset file {path}: {error.strerror}") from error
    return digest.hexdigest()


def _describe(path: str, file: Path, repo: str = "") -> ManifestFile:
    sha256 = file_sha256(file)
    if sha256 is None:
        raise AssetError(
            f"expected the mesh {path} among the data of PyBullet, found no {file}. "
            "Reinstall it: pip install --force-reinstall pybullet"
        )
    return ManifestFile(
        path=f"{repo}/{path}" if repo else path,
        sha256=sha256,
        size=file.stat().st_size,
        repo=repo,
        source=path if repo else "",
    )


def _data_folder() -> Path:
    spec = find_spec(PYBULLET_DATA)
    if spec is None or not spec.submodule_search_locations:
        raise AssetError(
            "expected the package pybullet_data for the robot's meshes, found none. "
            "Install PyBullet: pip install pybullet"
        )
    return Path(spec.submodule_search_locations[0])


def _closure(meshes: Iterable[str]) -> list[str]:
    """The meshes and, as far as they exist, the materials and textures that these refer to."""
    todo, done = sorted(meshes), set[str]()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        if name.endswith((".obj", ".mtl")) and (_data_folder() / name).is_file():
            text = (_data_folder() / name).read_text(encoding="utf-8", errors="replace")
            referred = re.findall(r"^\s*(?:mtllib|map_\w+)\s+(.*\S)\s*$", text, re.MULTILINE)
            near = [str(PurePosixPath(name).parent / re.split(r"[\\/]", r)[-1]) for r in referred]
            todo += [other for other in near if (_data_folder() / other).is_file()]
    return sorted(done)


def _is_safe_path(path: Any) -> bool:
    return type(path) is str and all(_matches(_NAME, part) for part in path.split("/"))


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return type(value) is str and pattern.fullmatch(value) is not None


def _require(fine: bool, expected: str, found: object) -> None:
    if not fine:
        raise AssetError(f"manifest: expected {expected}, found {found!r}")
