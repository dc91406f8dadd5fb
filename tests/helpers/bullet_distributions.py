"""Distributions of PyBullet that are installed as far as their metadata goes."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.sim import builds

LINUX_WHEEL = "cp312-cp312-manylinux_2_28_x86_64"


def install(
    patch: pytest.MonkeyPatch, folder: Path, *versions: tuple[str, str], tag: str = LINUX_WHEEL
) -> None:
    """Let exactly these (name, version) pairs be found, each with a wheel's tag ("": no wheel)."""
    for name, version in versions:
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if tag:
            (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")

    def distribution(name: str) -> metadata.Distribution:
        found: Any = list(metadata.distributions(name=name, path=[str(folder)]))
        if not found:
            raise metadata.PackageNotFoundError(name)
        return found[0]

    patch.setattr(builds.metadata, "distribution", distribution)
