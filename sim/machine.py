"""What of a machine shows in the last bits of the physics."""

from __future__ import annotations

import hashlib
import math
import platform
import struct
import sys
from collections.abc import Mapping

from calvin_eval.sim.builds import TESTED, installed_builds

_SAMPLES = 512


def machine_facts() -> dict[str, str]:
    """PyBullet, processor family and mathematics library, as short comparable texts.

    Imports PyBullet: whether it was built with NumPy is written nowhere else.
    """
    return {
        **_pybullet_facts(),
        "processor": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or platform.system(),
        "libm": libm_fingerprint(),
        "denormals": "kept" if sys.float_info.min / 2 else "flushed to zero",
    }


def _pybullet_facts() -> dict[str, str]:
    """Version, distribution, origin, wheel tag, and whether images come as NumPy arrays.

    Two distributions at once overwrite each other's files, so nothing is reported about either.
    """
    from calvin_eval.sim.bullet import pybullet

    images = {"images": "arrays" if pybullet.isNumpyEnabled() else "tuples"}
    builds = installed_builds()
    if len(builds) != 1:
        names = " and ".join(map(str, builds)) or "unknown"
        return dict.fromkeys(("pybullet", "distribution", "build", "wheel"), names) | images
    (build,) = builds
    return {
        "pybullet": build.version,
        "distribution": build.distribution,
        "build": build.origin,
        "wheel": build.tag or "unknown",
        **images,
    }


def differences(recorded: Mapping[str, str]) -> tuple[str, ...]:
    """What is known to change bits and is not here as it was on the recording machine."""
    here = machine_facts()
    phrases = {
        "pybullet": "PyBullet is {}",
        "distribution": "PyBullet is the distribution {}",
        "build": "PyBullet is a build of this kind: {}",
        "processor": "the processor is {}",
        "libm": "the C library rounds sines differently",
        "denormals": "denormal numbers are {} in this process",
    }
    if _is_tested(here) and _is_tested(recorded):  # then their bits are known to be equal
        del phrases["pybullet"], phrases["distribution"]
    return tuple(
        f"{phrase.format(here[key])} ({_reference(key, recorded)})"
        for key, phrase in phrases.items()
        if here[key] != recorded[key]
    )


def _is_tested(facts: Mapping[str, str]) -> bool:
    return TESTED.get(facts["distribution"]) == facts["pybullet"]


def _reference(key: str, recorded: Mapping[str, str]) -> str:
    if key == "libm":
        return f"the reference: {recorded['libc']} on a processor with FMA"
    return f"the reference: {recorded[key]}"


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
