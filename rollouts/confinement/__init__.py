"""A process that gives up, for good, what a policy does not need: writing files, the network.

The Linux kernel enforces it: Landlock for files, TCP and signals, a seccomp filter for what
Landlock has no rule for, and no capabilities. Children inherit it. It is for code that a stranger
wrote; it keeps no secret from such code, see docs/security.md for what is promised.

This package imports nothing but the standard library, so that a process can be confined before
any library has started a thread, which would stay free.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping

from calvin_eval.rollouts.confinement import landlock, seccomp, system

_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
"""Variables that say where libraries write, and folders in the scratch folder for them."""

_DEVICES = ("null", "zero", "full", "random", "urandom", "kfd", "dri")
_NVIDIA = "nvidia"
"""Devices that may be written: those without memory, and graphics cards."""


def why_not() -> str | None:
    """What is missing on this machine, in words; None if a process can be confined."""
    if sys.platform != "linux":
        return f"{sys.platform}; the kernel's help exists on Linux only"
    if not seccomp.known():
        return f"a machine of type {os.uname().machine}; the filter knows x86_64 and aarch64"
    version = landlock.version()
    if version < landlock.LEAST_VERSION:
        return (
            f"kernel {os.uname().release} with version {version} of Landlock; version "
            f"{landlock.LEAST_VERSION} is needed, which Linux has since 6.2 where it is switched on"
        )
    return None


def environment(scratch: str) -> Mapping[str, str]:
    """Variables that make libraries write to the scratch folder, and not ask the network."""
    caches = {name: os.path.join(scratch, folder) for name, folder in _CACHES.items()}
    return {
        **caches,
        "TMPDIR": scratch,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def confine(scratch: str) -> None:
    """Confine this process, and all that it starts from now on.

    Afterwards it can read what it could read, write below `scratch` only, reach no network, no
    other program's socket and no process outside, and change no file's mode or owner.

    Args:
        scratch: an existing folder.

    Raises:
        RuntimeError: threads run already, which would stay free.
        OSError: the kernel refused.
    """
    if threading.active_count() > 1:
        raise RuntimeError("a process is confined before it has threads")
    system.give_up_privileges()
    landlock.restrict(scratch, _devices())
    seccomp.install(signals=landlock.version() >= landlock.SIGNALS_VERSION)


def _devices() -> list[str]:
    names = sorted(os.listdir("/dev"))
    return [
        os.path.join("/dev", name) for name in names if name in _DEVICES or name.startswith(_NVIDIA)
    ]
