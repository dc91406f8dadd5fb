"""The builds of PyBullet: which distribution is installed, and what its images come as.

Two distributions on PyPI hold the module `pybullet`. `pybullet` has wheels for Linux up to
CPython 3.11, built with NumPy: `getCameraImage` gives arrays. `pybullet-arm64`, a maintained fork,
has wheels for Linux (x86-64), macOS and Windows up to CPython 3.13, built without: it gives tuples
of Python numbers, as does either one when it is compiled where NumPy cannot be imported. States
and pixels are the same to the last bit; docs/install.md says what was compared.

Importing this module does not import PyBullet.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from importlib import metadata
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

TESTED = {"pybullet": "3.2.7", "pybullet-arm64": "3.2.8"}
"""The distributions, each with the version whose states and images equal the golden traces'."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """An installed distribution of PyBullet.

    Attributes:
        distribution: `pybullet` or `pybullet-arm64`.
        version: such as `3.2.7`.
        tag: of the wheel it was installed from, such as `cp311-cp311-manylinux_2_17_x86_64`;
            empty if the installer kept none.
    """

    distribution: str
    version: str
    tag: str

    @property
    def origin(self) -> str:
        """`PyPI wheel`, `local build` or `unknown origin`.

        PyPI takes no wheel with the bare tag of a Linux machine, so that tag is a local build's.
        Wheels for other systems do not show who built them.
        """
        if "manylinux" in self.tag:
            return "PyPI wheel"
        return "local build" if "linux" in self.tag else "unknown origin"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def installed_builds() -> list[Build]:
    """All installed distributions of PyBullet: one, where all is well."""
    found = []
    for name in TESTED:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        tags = re.findall(r"^Tag: *(\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
        tag = tags[-1] if tags else ""
        found.append(Build(distribution=name, version=distribution.version, tag=tag))
    return found


def fitting_distribution() -> str:
    """The one with wheels for this Python, which pyproject.toml asks for too."""
    old = sys.platform == "linux" and sys.version_info < (3, 12)
    return "pybullet" if old else "pybullet-arm64"


def reinstall_command() -> str:
    """Shell lines that leave the tested wheel for this Python alone, whatever is installed.

    The two distributions share their files: uninstalling one of them breaks the other.
    """
    name = fitting_distribution()
    present = " ".join(build.distribution for build in installed_builds())
    removal = f"pip uninstall -y {present}\n" if present else ""
    return f"{removal}pip install --only-binary :all: --no-deps {name}=={TESTED[name]}"


def with_arrays(get_camera_image: Callable[..., Any]) -> Callable[..., Any]:
    """Give the `getCameraImage` of a build without NumPy the results of one with NumPy.

    Args:
        get_camera_image: returns width, height and three tuples of W * H * 4, W * H and W * H
            Python numbers.

    Returns:
        A function of the same arguments, whose result is `(width, height, rgba, depth, mask)`:
        (H, W, 4) uint8, (H, W) float32 in 0..1 and (H, W) int32.
    """

    @wraps(get_camera_image)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        width, height, rgba, depth, mask = get_camera_image(*args, **kwargs)
        return (
            *(width, height),
            # Of all ways to read a tuple, these take the least time (see docs/rendering.md).
            np.frombuffer(bytearray(rgba), np.uint8).reshape(height, width, 4),
            _packed("f", depth, np.float32).reshape(height, width),
            _packed("i", mask, np.int32).reshape(height, width),
        )

    return wrapper


def _packed(code: str, values: Sequence[float], dtype: type) -> NDArray[Any]:
    packed = bytearray(4 * len(values))  # writable, as the arrays of the other builds are
    _struct(code, len(values)).pack_into(packed, 0, *values)
    return np.frombuffer(packed, dtype)


@lru_cache(maxsize=8)
def _struct(code: str, count: int) -> Struct:
    return Struct(f"{count}{code}")
