"""The doctor's look at the machine: cores, memory, disk, EGL, GPUs."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calvin_eval.doctor.findings import CheckResult, error, ok, warning
from calvin_eval.errors import CalvinEvalError
from calvin_eval.extras import install_command, missing_modules
from calvin_eval.rollouts.processes import usable_cores

if TYPE_CHECKING:
    from calvin_eval.sim.egl_devices import EglDevice, Gpu

APT_EGL = "apt-get install libegl1 libgl1-mesa-dri libegl-mesa0 libgles2"

# With NVIDIA_DRIVER_CAPABILITIES unset, the container runtime leaves the driver's EGL outside.
_CONTAINER_EGL = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all ..."
_VENDOR_FILE = "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"
_VENDOR_JSON = '{"file_format_version":"1.0.0","ICD":{"library_path":"libEGL_nvidia.so.0"}}'
_SOFTWARE = re.compile(r"llvmpipe|softpipe|swrast|swiftshader", re.IGNORECASE)
_GB = 1e9
_LEAST_MEMORY = 2 * _GB  # a world takes 0.1 GB, with Mesa's EGL 0.5 GB, a policy the rest
_LEAST_DISK = 1 * _GB
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_TORCH_SECONDS = 180
_TORCH = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__,
    "build": f"CUDA {torch.version.cuda}" if torch.version.cuda
             else f"ROCm {torch.version.hip}" if torch.version.hip else None,
    "devices": [[device.name, str(getattr(device, "uuid", ""))] for device in devices],
}))
"""


def check_machine() -> CheckResult:
    """Cores that this process may use, and memory."""
    cores = usable_cores()
    total, free = memory()
    room = f"{total / _GB:.1f} GB of memory, {free / _GB:.1f} GB free"
    detail = f"{cores} core{'s' * (cores != 1)}, {room}"
    if free < _LEAST_MEMORY:
        return warning(
            "machine",
            detail,
            "Free memory, or raise the container's limit: docker run --memory 8g ... (a world "
            "takes 0.1 GB, with Mesa's EGL 0.5 GB; the policy comes on top)",
        )
    return ok("machine", detail)


def memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[float, float]:
    """Bytes in all and bytes available, within the container's limit."""
    pairs = re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    values = {name: int(number) * 1024 for name, number in pairs}
    total, free = values["MemTotal"], values["MemAvailable"]
    texts = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    limit = min([total, *(int(text) for text in texts if text.isdigit())])
    return limit, min(limit, free)


def check_disk() -> CheckResult:
    """Room for `runs/` in the current folder."""
    free = shutil.disk_usage(".").free
    detail = f"{free / _GB:.1f} GB free here"
    if not os.access(".", os.W_OK):
        return warning("disk", "this folder cannot be written to", "calvin-eval --out FOLDER ...")
    if free < _LEAST_DISK:
        return warning(
            "disk", detail, "Make room, or write elsewhere: calvin-eval --out FOLDER ..."
        )
    return ok("disk", detail)


def check_ffmpeg() -> CheckResult:
    """The encoder of videos."""
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        child = subprocess.run(
            [path, "-version"], capture_output=True, check=True, text=True, timeout=60
        )
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as problem:
        detail = f"no videos can be written ({(str(problem).splitlines() or [''])[0]})"
        return warning("ffmpeg", detail, "pip install --force-reinstall imageio-ffmpeg")
    version = re.search(r"ffmpeg version n?([\d.]+|\S+)", child.stdout)
    return ok("ffmpeg", version[1] if version else "works")


def check_fast(render: str) -> CheckResult:
    """Whether our own renderer was built when the package was installed."""
    from calvin_eval.sim.drawing.fast import REINSTALL, library_problem

    if render not in ("auto", "fast"):
        return ok("fast", f"not needed for --render {render}")
    problem = library_problem()
    if not problem:
        return ok("fast", "built: draws EGL's images without EGL, a display or a GPU")
    finding = error if render == "fast" else warning
    return finding("fast", problem, f"apt-get install g++; {REINSTALL}")


def check_gl(render: str) -> CheckResult | None:
    """Whether OpenGL draws here without Bullet; nothing to say where nobody asks."""
    if render != "gl":
        return None
    from calvin_eval.sim.drawing.gl_context import context_problem

    problem = context_problem()
    if problem:
        return error("gl", problem, f"{install_command('gl')}; {APT_EGL}")
    from calvin_eval.sim.render import resolve_backend

    info = resolve_backend("gl")
    return ok("gl", f"{info.renderer}, {info.version} ({info.vendor})")


def check_egl(render: str) -> CheckResult:
    """Whether Bullet's EGL plugin draws here, and with which driver."""
    if render in ("tiny", "none", "fast", "gl"):
        return ok("egl", f"not needed for --render {render}")
    from calvin_eval.sim.render import probe_egl

    probe = probe_egl()
    if probe.error:
        return _broken_egl(render, probe.error)
    detail = f"{probe.renderer}, {probe.version} ({probe.vendor})"
    if not _SOFTWARE.search(probe.renderer):
        return ok("egl", f"hardware: {detail}")
    if has_gpu():
        return warning("egl", f"in software although there is a GPU: {detail}", nvidia_egl_remedy())
    return ok("egl", f"software: {detail}")


def _broken_egl(render: str, problem: str) -> CheckResult:
    from calvin_eval.sim.egl_devices import DEVICE_VARIABLE

    remedy = APT_EGL
    if "render_device" in problem:
        remedy = f"unset {DEVICE_VARIABLE}  # it names a device that EGL does not have"
    elif has_gpu():
        remedy = f"{nvidia_egl_remedy()}\n{APT_EGL}  # or draw in software"
    if render == "egl":
        return error("egl", problem, remedy)
    return warning("egl", f"{problem}; --render auto draws with TinyRenderer instead", remedy)


def nvidia_egl_remedy() -> str:
    """How NVIDIA's EGL comes to be found."""
    if ctypes.util.find_library("EGL_nvidia"):
        return f"mkdir -p {Path(_VENDOR_FILE).parent}; echo '{_VENDOR_JSON}' > {_VENDOR_FILE}"
    return f"{_CONTAINER_EGL}  # or install the driver's EGL: Debian libegl-nvidia0"


def has_gpu() -> bool:
    """Whether the kernel has a GPU that computes: NVIDIA's, AMD's, or one under WSL."""
    return any(glob(pattern) for pattern in ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg"))


def check_gpu() -> CheckResult:
    """Whether torch can use the GPUs that are there; torch is asked in a process of its own."""
    from calvin_eval.sim.egl_devices import nvidia_gpus

    gpus = nvidia_gpus()
    if not gpus and not has_gpu():
        return ok("gpu", "none: physics needs none, policies run on the processor")
    if missing_modules("torch"):
        use = f"policy files need torch: {install_command('torch')}"
        return ok("gpu", f"{_gpu_names(gpus)}; torch is not installed ({use})")
    torch = ask_torch()
    detail = f"{_gpu_names(gpus)}; torch {torch['version']}"
    if torch["build"] is None:
        remedy = "pip install --force-reinstall torch  # from an index with CUDA builds"
        return warning("gpu", f"{detail} is a build without CUDA", remedy)
    if not torch["devices"]:
        return warning("gpu", f"{detail} sees none", _hidden_gpu_remedy())
    return ok("gpu", f"{detail} ({torch['build']}) sees {len(torch['devices'])}")


def _gpu_names(gpus: Sequence[Gpu]) -> str:
    counts = Counter(gpu.name for gpu in gpus)
    return (
        ", ".join(f"{count} x {name}" for name, count in counts.items())
        or "one that nvidia-smi does not list"
    )


def ask_torch() -> dict[str, Any]:
    """Torch's version, its build (CUDA, ROCm or None), and the devices it sees: [name, UUID]."""
    child = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS
    )
    if child.returncode != 0:
        last = (child.stderr.strip() or "no output").splitlines()[-1]
        raise CalvinEvalError(f"torch does not start ({last}). pip install --force-reinstall torch")
    answer: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    return answer


def _hidden_gpu_remedy() -> str:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "unset CUDA_VISIBLE_DEVICES"
    return "docker run --gpus all ...  # outside a container: a driver as new as torch's CUDA"


def check_gpu_mapping(render: str) -> CheckResult | None:
    """Which EGL device is which GPU; nothing to say without EGL or an NVIDIA GPU."""
    from calvin_eval.sim.egl_devices import DEVICE_VARIABLE, egl_devices, nvidia_gpus

    gpus = nvidia_gpus() if render in ("auto", "egl") else []
    return explain_mapping(gpus, egl_devices(), os.environ.get(DEVICE_VARIABLE)) if gpus else None


def explain_mapping(
    gpus: Sequence[Gpu], devices: Sequence[EglDevice], chosen: str | None
) -> CheckResult:
    """The mapping in words.

    Args:
        gpus: at least one.
        devices: of EGL.
        chosen: the value of `EGL_VISIBLE_DEVICES`, if it is set.
    """
    from calvin_eval.sim.egl_devices import DEVICE_VARIABLE, match

    mapping = match(gpus, devices)
    if not mapping:
        return warning("gpu for egl", f"EGL has none of the {len(gpus)} GPUs", nvidia_egl_remedy())
    pairs = ", ".join(f"GPU {gpu} = EGL device {device}" for gpu, device in mapping.items())
    missing = [str(gpu.index) for gpu in gpus if gpu.index not in mapping]
    if missing:
        return warning(
            "gpu for egl", f"{pairs}; EGL lacks GPU {', '.join(missing)}", nvidia_egl_remedy()
        )
    if chosen is not None:
        drawing = [str(gpu) for gpu, device in mapping.items() if str(device) == chosen.strip()]
        where = f"GPU {drawing[0]}" if drawing else "no GPU"
        return ok("gpu for egl", f"{pairs}; {DEVICE_VARIABLE}={chosen} draws on {where}")
    if len(gpus) > 1:
        pairs += f"; choose with {DEVICE_VARIABLE}=DEVICE"
    return ok("gpu for egl", pairs)
