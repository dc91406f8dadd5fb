"""What of a machine shows in the last bits of the physics."""

from __future__ import annotations

import hashlib
import math
import platform
import struct
import sys
from collections.abc import Mapping
from importlib import metadata

_SAMPLES = 512


def machine_facts() -> dict[str, str]:
    """PyBullet, processor family and mathematics library, as short comparable texts."""
    return {
        "pybullet": _version("pybullet"),
        "build": pybullet_build(),
        "processor": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or platform.system(),
        "libm": libm_fingerprint(),
        "denormals": "kept" if sys.float_info.min / 2 else "flushed to zero",
    }


def differences(recorded: Mapping[str, str]) -> tuple[str, ...]:
    """What is known to change bits and is not here as it was on the recording machine."""
    here = machine_facts()
    phrases = {
        "pybullet": "PyBullet is {}",
        "build": "PyBullet is a {}",
        "processor": "the processor is {}",
        "libm": "the C library rounds sines differently",
        "denormals": "denormal numbers are {} in this process",
    }
    return tuple(
        f"{phrase.format(here[key])} ({_reference(key, recorded)})"
        for key, phrase in phrases.items()
        if here[key] != recorded[key]
    )


def _reference(key: str, recorded: Mapping[str, str]) -> str:
    if key == "libm":
        return f"the reference: {recorded['libc']} on a processor with FMA"
    return f"the reference: {recorded[key]}"


def pybullet_build() -> str:
    """`PyPI wheel`, or `local build`, whose compiler may have chosen other instructions."""
    try:
        tags = metadata.distribution("pybullet").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        return "missing"
    return "PyPI wheel" if "manylinux" in tags else "local build"


def libm_fingerprint() -> str:
    """12 hex digits over results of the C library's functions that Bullet calls.

    The C library picks its code by processor: without FMA instructions its sine has other last
    bits, and so has every state after a few steps.
    """
    digest = hashlib.sha256()
    for i in range(1, _SAMPLES):
        x, unit = i / 37, i / _SAMPLES
        values = (
            math.sin(x), math.cos(x), math.tan(x), math.atan2(unit, x), math.asin(unit),
            math.acos(unit), math.exp(unit), math.log(x), math.pow(x, unit), math.fmod(x, 0.7),
        )  # fmt: skip
        digest.update(struct.pack("<10d", *values))
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
