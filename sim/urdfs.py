"""URDF files as Bullet can load them, and short ones for worlds that Bullet does not draw.

Bullet parses every file anew whenever a world is built. A world without visual shapes needs of a
collision mesh the places of its corners and its faces; normals and texture coordinates are two
thirds of the text. Left out, the shapes stay the same to the last bit: Bullet makes a convex hull
of the corners, in the order in which faces name them.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from calvin_eval.errors import AssetError
from calvin_eval.files import write_atomic

SHARED_MESHES = "package://pybullet_data/"
_KEPT = ("v", "o", "g", "s", "usemtl", "mtllib", "l")
_DROPPED = ("vn", "vt")
_PLACEHOLDER = '<visual><geometry><box size="1 1 1" /></geometry></visual>'
"""Bullet makes visual shapes of the collision meshes of links that have no other."""
_FILENAME = re.compile(r'filename="([^"]+)"')


def read_text(path: Path) -> str:
    """A file of a pack; raises AssetError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AssetError(
            f"expected the asset file {path}; it cannot be read ({error.strerror}). "
            "Run `calvin-eval assets verify` to see what else is wrong with this pack."
        ) from error


@lru_cache(maxsize=64)
def loadable_urdf(path: Path) -> str:
    """The URDF itself, or a resolved copy if it borrows meshes that ship with PyBullet.

    Bullet looks for meshes beside the URDF only (search paths do not help), so a URDF that
    shares `pybullet_data`'s meshes has to name them by absolute paths, which no package can ship.
    """
    text = read_text(path)
    if SHARED_MESHES not in text:
        return str(path)
    return _content_addressed(_resolved(text, path.parent), ".urdf")


@lru_cache(maxsize=64)
def lean_urdf(path: Path) -> str:
    """A copy of a URDF with boxes as visual shapes, whose convex collision meshes are short files.

    Bodies loaded from it are the same as without, to the last bit. Where a mesh is not where this
    expects it, or says more than it knows, it is left as it is.
    """
    try:
        robot = ElementTree.fromstring(_resolved(read_text(path), path.parent))
    except ElementTree.ParseError:
        return loadable_urdf(path)  # Bullet says what is wrong
    for link in robot.iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
        if link.find("collision") is not None:
            link.append(ElementTree.fromstring(_PLACEHOLDER))
        for collision in link.findall("collision"):
            # Concave meshes are read by another parser, which goes by normals too.
            if "concave" not in collision.attrib:
                for mesh in collision.iter("mesh"):
                    mesh.set("filename", _lean_mesh(mesh.get("filename", "")))
    files = [Path(mesh.get("filename", "")) for mesh in robot.iter("mesh")]
    if not all(file.is_file() for file in files):
        return loadable_urdf(path)
    return _content_addressed(ElementTree.tostring(robot, encoding="unicode"), ".urdf")


def _resolved(text: str, folder: Path) -> str:
    """The text with absolute paths."""

    def absolute(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith(SHARED_MESHES):
            import pybullet_data

            return f'filename="{pybullet_data.getDataPath()}/{name[len(SHARED_MESHES) :]}"'
        return f'filename="{folder / name.removeprefix("package://")}"'

    return _FILENAME.sub(absolute, text)


def _lean_mesh(name: str) -> str:
    mesh = Path(name)
    if mesh.suffix != ".obj" or not mesh.is_file():
        return name
    text = lean_obj(mesh.read_text(encoding="utf-8", errors="surrogateescape"))
    return name if text is None else _content_addressed(text, ".obj")


def lean_obj(text: str) -> str | None:
    """A Wavefront mesh's text without normals, texture coordinates and comments.

    Returns:
        The shorter text; None for one with statements or references of other kinds.
    """
    lines = []
    for line in text.split("\n"):
        words = line.split()
        if not words or words[0].startswith("#") or words[0] in _DROPPED:
            continue
        if line.rstrip().endswith("\\"):
            return None
        if words[0] in _KEPT:
            lines.append(line.rstrip())
        elif words[0] == "f":
            corners = [word.split("/")[0] for word in words[1:]]
            if not all(corner.isdecimal() for corner in corners):
                return None  # counted from the end
            lines.append(" ".join(["f", *corners]))
        else:
            return None
    return "\n".join(lines) + "\n"


def _content_addressed(text: str, suffix: str) -> str:
    """Write the text once per content, atomically, where several processes may do so at once."""
    from calvin_eval.sim.assets import store as assets_store

    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    try:
        folder = assets_store.cache_root() / "urdf"
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:  # a read-only home: this process keeps its own copy
        folder = _own_folder()
    target = folder / f"{digest[:32]}{suffix}"
    content = text.encode(errors="surrogateescape")
    if not target.exists() or target.read_bytes() != content:
        write_atomic(target, content)
    return str(target)


@lru_cache(maxsize=1)
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="calvin-eval-"))
