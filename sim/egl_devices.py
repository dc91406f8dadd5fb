"""Which GPU is which EGL device.

Bullet's plugin draws on the EGL device whose index `EGL_VISIBLE_DEVICES` names, and EGL numbers
devices otherwise than CUDA and `nvidia-smi` do, software renderers among them. A GPU's UUID is
the same everywhere; where EGL does not tell it, its CUDA number has to do.

`python -m calvin_eval.sim.egl_devices` prints the devices as JSON. `egl_devices` runs it in a
child process, since loading a broken driver can end a process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from calvin_eval.errors import RenderError

DEVICE_VARIABLE = "EGL_VISIBLE_DEVICES"

_EXTENSIONS, _VENDOR, _RENDERER = 0x3055, 0x3053, 0x335F
_DRM_FILE, _DEVICE_UUID, _CUDA_DEVICE = 0x3233, 0x335C, 0x323A
_MAX_DEVICES = 32  # as many as Bullet looks at
_SECONDS = 60
_GPU_LINE = re.compile(r"^GPU (\d+): (.+?) \(UUID: (GPU-[0-9a-f-]+)\)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU as `nvidia-smi` numbers it, in the order of PCI addresses."""

    index: int
    name: str
    uuid: str


@dataclass(frozen=True, kw_only=True)
class EglDevice:
    """An EGL device.

    Attributes:
        index: what `EGL_VISIBLE_DEVICES` takes.
        software: whether it draws on the processor.
        vendor: the driver's, empty if it does not tell.
        renderer: likewise.
        uuid: `GPU-…` as `nvidia-smi` has it, empty if EGL does not tell.
        cuda: the CUDA number in the order of PCI addresses, if it is a CUDA device.
        file: the kernel's device file, if there is one.
    """

    index: int
    software: bool = False
    vendor: str = ""
    renderer: str = ""
    uuid: str = ""
    cuda: int | None = None
    file: str = ""


class EglLibrary(Protocol):
    """The four questions that are asked of EGL; a device is an opaque handle."""

    def devices(self) -> Sequence[int]:
        """Handles of all devices."""

    def string(self, device: int, name: int) -> str:
        """A text, empty if the device does not tell."""

    def number(self, device: int, name: int) -> int | None:
        """A number, None if the device does not tell."""

    def binary(self, device: int, name: int) -> bytes:
        """16 bytes, none if the device does not tell."""


class _LoadedEgl:
    """EGL by way of `libEGL.so.1`; OSError where there is none."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libEGL.so.1")
        self._find = library.eglGetProcAddress
        self._find.restype, self._find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        address = self._find(name.encode())
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None

    def devices(self) -> Sequence[int]:
        handles, count = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int()
        types = (ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int))
        query = self._function("eglQueryDevicesEXT", ctypes.c_uint, *types)
        if not query or not query(_MAX_DEVICES, handles, ctypes.byref(count)):
            return []
        return [handle for handle in handles[: count.value] if handle]

    def string(self, device: int, name: int) -> str:
        query = self._function(
            "eglQueryDeviceStringEXT", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
        )
        return (query(device, name) or b"").decode(errors="replace") if query else ""

    def number(self, device: int, name: int) -> int | None:
        value = ctypes.c_ssize_t()
        types = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
        query = self._function("eglQueryDeviceAttribEXT", ctypes.c_uint, *types)
        return value.value if query and query(device, name, ctypes.byref(value)) else None

    def binary(self, device: int, name: int) -> bytes:
        value, size = (ctypes.c_ubyte * 16)(), ctypes.c_int()
        types = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        query = self._function("eglQueryDeviceBinaryEXT", ctypes.c_uint, *types)
        done = query and query(device, name, 16, ctypes.byref(value), ctypes.byref(size))
        return bytes(value) if done and size.value == 16 else b""


def describe(egl: EglLibrary) -> list[EglDevice]:
    """Every device, asked only what its extensions say that it answers."""
    found = []
    for index, device in enumerate(egl.devices()):
        known = egl.string(device, _EXTENSIONS).split()
        named = "EGL_EXT_device_query_name" in known
        identity = (
            egl.binary(device, _DEVICE_UUID) if "EGL_EXT_device_persistent_id" in known else b""
        )
        found.append(
            EglDevice(
                index=index,
                software="EGL_MESA_device_software" in known,
                vendor=egl.string(device, _VENDOR) if named else "",
                renderer=egl.string(device, _RENDERER) if named else "",
                uuid=f"GPU-{uuid.UUID(bytes=identity)}" if identity else "",
                cuda=egl.number(device, _CUDA_DEVICE) if "EGL_NV_device_cuda" in known else None,
                file=egl.string(device, _DRM_FILE) if "EGL_EXT_device_drm" in known else "",
            )
        )
    return found


def egl_devices() -> list[EglDevice]:
    """The EGL devices of this machine, in the order in which Bullet counts them.

    Raises:
        RenderError: there is no libEGL, or asking it ended the process that asked.
    """
    # Every GPU is to be seen, and under the number that nvidia-smi gives it.
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    child = subprocess.run(
        [sys.executable, "-m", "calvin_eval.sim.egl_devices"],
        capture_output=True,
        check=False,
        env={**environment, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        text=True,
        timeout=_SECONDS,
    )
    if child.returncode != 0:
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        raise RenderError(
            f"expected a list of EGL devices; the process that asked for it ended with code "
            f"{child.returncode} ({last}). Install libegl1 and a driver."
        )
    return [EglDevice(**entry) for entry in json.loads(child.stdout.strip().splitlines()[-1])]


def nvidia_gpus() -> list[Gpu]:
    """What `nvidia-smi -L` lists; nothing where there is no such program or it fails."""
    try:
        child = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, check=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        Gpu(index=int(index), name=name, uuid=identity)
        for index, name, identity in _GPU_LINE.findall(child.stdout)
    ]


def match(gpus: Sequence[Gpu], devices: Sequence[EglDevice]) -> Mapping[int, int]:
    """The EGL index of every GPU that EGL has, by the GPU's index.

    A device with a UUID is matched by it alone, even if its CUDA number would fit another GPU.
    A GPU that EGL offers twice (by NVIDIA's driver and by Mesa's) gets the first.
    """
    by_uuid = {device.uuid: device.index for device in reversed(devices) if device.uuid}
    by_cuda = {
        device.cuda: device.index
        for device in reversed(devices)
        if device.cuda is not None and not device.uuid
    }
    pairs = ((gpu.index, by_uuid.get(gpu.uuid, by_cuda.get(gpu.index))) for gpu in gpus)
    return {gpu: device for gpu, device in pairs if device is not None}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps([asdict(d) for d in describe(_LoadedEgl())]) + "\n")
