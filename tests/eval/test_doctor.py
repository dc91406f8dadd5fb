from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from copy import deepcopy
from pathlib import Path
from typing import Any

import bullet_distributions
import imageio_ffmpeg
import pytest
from click.testing import Result
from command_line import runner
from requirements import without

from calvin_eval.cli.doctor import doctor
from calvin_eval.doctor import diagnosis, hardware
from calvin_eval.doctor.bullet import check_pybullet
from calvin_eval.doctor.diagnosis import CheckResult, diagnose, judge_images, judge_physics
from calvin_eval.protocol import Benchmark
from calvin_eval.sim import builds, egl_devices, load_pack, render, selftest
from calvin_eval.sim.assets import store as assets_store
from calvin_eval.sim.bullet import pybullet
from calvin_eval.sim.drawing import fast, gl_context
from calvin_eval.sim.egl_devices import EglDevice, Gpu
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.selftest import SelftestResult
from calvin_eval.sim.selftest_trace import TraceReplay

NAMES = [
    *("python", "packages", "extras", "pybullet", "machine", "disk", "ffmpeg", "assets", "chains"),
    "gpu",
]
NAMES += ["fast", "egl", "physics", "images"]
MESA = render.EglProbe(
    error="", vendor="Mesa", renderer="llvmpipe (LLVM 15)", version="4.5 Mesa 22.3.6"
)
BROKEN = render.EglProbe(error="the EGL test process ended with code 1 (failed to EGL with glad.)")
FRAMES = selftest.frames()
REFERENCES = selftest.references()
GPUS = [Gpu(index=0, name="H100", uuid="GPU-a"), Gpu(index=1, name="H100", uuid="GPU-b")]
DEVICES = [
    EglDevice(index=0, software=True),
    EglDevice(index=1, uuid="GPU-b"),
    EglDevice(index=2, uuid="GPU-a"),
]


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, no pack but the built-in one, fast built, EGL as if it were Mesa's, one scene."""
    monkeypatch.setenv(assets_store.CACHE_VARIABLE, str(tmp_path / "cache"))
    for name in (assets_store.ASSETS_VARIABLE, egl_devices.DEVICE_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(egl_devices, "nvidia_gpus", lambda: [])
    monkeypatch.setattr(fast, "library_problem", lambda: "")
    monkeypatch.setattr(render, "probe_egl", lambda: MESA)
    monkeypatch.setattr(selftest, "SCENES", ("D",))
    monkeypatch.setattr(selftest, "replay", sound_replay)
    monkeypatch.setattr(selftest, "_like_egl", lambda render: [image("same")])


def sound_replay(pack: AssetPack, scene: str, revision: str, *, render: str) -> TraceReplay:
    """What a replay gives on the machine that recorded the references, at once."""
    images = {"rgb_static": FRAMES["tiny_rgb_static"]} if render == "tiny" else {}
    physics = REFERENCES["packs"][pack.fingerprint]["physics"]
    return TraceReplay(hashes=physics[scene][revision], images=images)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The self-test's references, free to be changed."""
    copy = deepcopy(selftest.references())
    monkeypatch.setattr(selftest, "references", lambda: copy)
    return copy


def image(outcome: Any, found: str = "61.0 dB") -> SelftestResult:
    return SelftestResult(
        kind="image", subject="rgb_static by EGL", outcome=outcome,
        expected="at least 35 dB", found=found, causes=("the reference was drawn by Mesa",),
    )  # fmt: skip


def state(outcome: Any, *causes: str) -> SelftestResult:
    return SelftestResult(
        kind="physics", subject="scene D (pinned) after 25 steps", outcome=outcome,
        expected="a" * 32, found="b" * 32, causes=causes,
    )  # fmt: skip


def call(*arguments: str) -> Result:
    return runner().invoke(doctor, arguments)


def find(findings: list[CheckResult], name: str) -> CheckResult:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_a_sound_machine_is_ready() -> None:
    result = call()
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.stdout
    assert [line[2:15].strip() for line in lines[:-2]] == NAMES
    assert {line[0] for line in lines[:-2]} == {"✓"}
    assert lines[-1] == "Ready."
    assert "built: draws EGL's images" in result.stdout
    assert load_pack("builtin").fingerprint[:12] in result.stdout


def test_json_is_all_that_is_printed() -> None:
    result = call("--json", "--render", "tiny")
    content = json.loads(result.stdout)
    assert (content["schema"], content["sound"]) == (1, True)
    assert [entry["name"] for entry in content["findings"]] == NAMES
    assert {entry["status"] for entry in content["findings"]} == {"ok"}
    assert set(content["findings"][0]) == {"name", "status", "detail", "remedy"}


@pytest.mark.slow
def test_nothing_heavy_stays_in_the_process_and_no_egl_is_tried_for_tiny() -> None:
    script = (
        "import sys\n"
        "from calvin_eval.doctor import diagnosis as doctor\n"
        "assert not {'torch', 'pybullet'} & set(sys.modules)\n"
        "from calvin_eval.sim import render, selftest\n"
        "render.probe_egl = None\n"
        "selftest.SCENES = ('A',)\n"
        "found = doctor.diagnose('builtin', 'tiny')\n"
        "print('torch' in sys.modules, [f for f in found if f.name in ('egl', 'physics')])\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("False ")
    assert child.stdout.count("status='ok'") == 2, child.stdout


def test_findings_with_remedies_are_printed_for_any_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        CheckResult(name="egl", status="error", detail="broken [x]", remedy="apt-get a\napt-get b"),
        CheckResult(name="gpu", status="warning", detail="none", remedy="y " * 100),
    ]
    monkeypatch.setattr(diagnosis, "examine", lambda assets, render: iter(found))
    result = call()
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "✗ egl          broken [x]",
        "               → apt-get a",
        "               → apt-get b",
        "! gpu          none",
        "               → " + "y " * 100,
        "",
        "Not ready: 1 error to fix first.",
    ]
    plain = runner(charset="ascii").invoke(doctor, [])
    assert plain.stdout.splitlines()[:2] == ["x egl          broken [x]", " " * 15 + "-> apt-get a"]
    found.pop(0)
    result = call()
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Ready, with 1 warning.")


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: object) -> CheckResult:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(hardware, "check_disk", broken)
    monkeypatch.setattr(diagnosis, "check_chains", broken)
    monkeypatch.setattr(diagnosis, "check_selftest", broken)
    found = diagnose()
    assert [finding.name for finding in found] == [*NAMES[:-2], "self-test"]
    for name in ("disk", "chains", "self-test"):
        assert find(found, name).status == "error"
        assert "ZeroDivisionError: oops" in find(found, name).detail
        assert "report" in find(found, name).remedy


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object) -> CheckResult:
        raise ModuleNotFoundError("No module named 'pybullet'", name="pybullet")

    monkeypatch.setattr(diagnosis, "check_selftest", absent)
    found = find(diagnose("builtin", "none"), "self-test")
    assert (found.status, found.detail) == ("error", "cannot import pybullet")
    assert found.remedy == "pip install calvin-eval"


def test_packages_out_of_range_come_with_the_pip_line() -> None:
    needed = ["numpy>=99.0", "no-such-package-of-ours", "click>=8.1", 'torch>=99; extra == "x"']
    found = diagnosis.check_packages(needed)
    assert found.status == "error"
    assert "(needs >=99.0)" in found.detail
    assert "no-such-package-of-ours missing" in found.detail
    assert "click" not in found.detail
    assert found.remedy == 'pip install "numpy>=99.0" "no-such-package-of-ours"'
    assert diagnosis.check_packages(["click>=8.1"]).detail.startswith("all 1 as needed")


def test_an_old_python_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Version = namedtuple("Version", "major minor micro")
    monkeypatch.setattr(sys, "version_info", Version(3, 9, 1))
    found = diagnosis.check_python()
    assert (found.status, found.remedy[:22]) == ("error", "Use Python 3.10 or new")


def test_one_tested_pybullet_is_sound_whoever_built_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for i, (name, version) in enumerate(builds.TESTED.items()):
        for tag in ("cp311-cp311-linux_x86_64", bullet_distributions.LINUX_WHEEL):
            folder = tmp_path / f"{i}{tag}"
            bullet_distributions.install(monkeypatch, folder, (name, version), tag=tag)
            found = check_pybullet()
            assert found.status == "ok"
            assert found.detail.startswith(f"{name} {version}, ")
            assert tag in found.detail


def test_another_pybullet_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bullet_distributions.install(monkeypatch, tmp_path, ("pybullet", "3.2.5"))
    found = check_pybullet()
    assert found.status == "warning"
    assert "not the tested 3.2.7" in found.detail
    assert found.remedy.splitlines()[0] == "pip uninstall -y pybullet"


@pytest.mark.parametrize(
    ("python", "wanted"), [((3, 11), "pybullet==3.2.7"), ((3, 12), "pybullet-arm64==3.2.8")]
)
def test_two_distributions_of_pybullet_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: tuple[int, int], wanted: str
) -> None:
    bullet_distributions.install(
        monkeypatch, tmp_path, ("pybullet", "3.2.7"), ("pybullet-arm64", "3.2.8")
    )
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(sys, "platform", "linux")
    found = check_pybullet()
    assert found.status == "error"
    assert "pybullet 3.2.7 and pybullet-arm64 3.2.8 are both installed" in found.detail
    assert found.remedy.splitlines() == [
        "pip uninstall -y pybullet pybullet-arm64",
        f"pip install --only-binary :all: --no-deps {wanted}",
    ]


def test_a_pybullet_that_nothing_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bullet_distributions.install(monkeypatch, tmp_path)
    found = check_pybullet()
    assert found.status == "warning"
    assert found.detail.startswith(pybullet.__file__)
    monkeypatch.setitem(sys.modules, "calvin_eval.sim.bullet", None)
    found = check_pybullet()
    assert (found.status, found.detail) == ("error", "not installed")
    assert found.remedy.startswith("pip install --only-binary :all: --no-deps pybullet")


def test_either_pybullet_will_do_for_the_packages() -> None:
    found = diagnosis.check_packages(["pybullet>=99", "pybullet-arm64>=99", "click>=8.1"])
    assert found.detail.startswith("all 1 as needed")


def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:  16000000 kB\nMemFree: 1 kB\nMemAvailable:  8000000 kB\n")
    monkeypatch.setattr(hardware, "_CGROUP_LIMITS", (limit,))
    assert hardware.memory(meminfo) == (16_384_000_000, 8_192_000_000)
    limit.write_text("max\n")
    assert hardware.memory(meminfo) == (16_384_000_000, 8_192_000_000)
    limit.write_text("1000000000\n")
    assert hardware.memory(meminfo) == (1e9, 1e9)
    monkeypatch.setattr(hardware, "memory", lambda: (1e9, 1e9))
    found = hardware.check_machine()
    assert found.status == "warning"
    assert "docker run --memory" in found.remedy


def test_a_full_or_closed_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**8))
    assert hardware.check_disk().detail == "0.1 GB free here"
    assert "--out FOLDER" in hardware.check_disk().remedy
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in hardware.check_disk().detail


def test_a_missing_or_broken_ffmpeg_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.\nInstall it.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    found = hardware.check_ffmpeg()
    assert (found.status, found.remedy) == (
        "warning",
        "pip install --force-reinstall imageio-ffmpeg",
    )
    assert "(No ffmpeg exe could be found.)" in found.detail
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "nothing"))
    assert hardware.check_ffmpeg().status == "warning"


def test_a_driver_is_named() -> None:
    found = hardware.check_egl("egl")
    assert found.detail == "software: llvmpipe (LLVM 15), 4.5 Mesa 22.3.6 (Mesa)"


def test_with_our_own_renderer_nobody_needs_egl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "probe_egl", lambda: BROKEN)
    result = call("--render", "auto")
    assert result.exit_code == 0
    assert "✓ fast         built" in result.stdout
    assert "not needed for --render fast" in result.stdout
    assert "images       1 by fast: 61.0 dB" in result.stdout
    assert "Ready." in result.stdout


def test_a_renderer_that_was_not_built_stops_only_those_who_insist_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "library_problem", lambda: "the renderer 'fast' is not built")
    result = call("--render", "auto")
    assert result.exit_code == 0
    assert "! fast         the renderer 'fast' is not built" in result.stdout
    assert "images       1 by egl" in result.stdout
    result = call("--render", "fast")
    assert result.exit_code == 1
    assert "✗ fast" in result.stdout
    assert "images" not in result.stdout


def test_another_image_of_our_own_renderer_is_a_defect() -> None:
    found = judge_images([image("near", "31.0 dB")], "fast")
    assert (found.status, "pip install" in found.remedy) == ("error", True)


def test_gl_is_spoken_of_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl_context, "context_problem", lambda: "no OpenGL 4.5")
    assert hardware.check_gl("auto") is None
    found = hardware.check_gl("gl")
    assert found is not None
    assert (found.status, found.detail) == ("error", "no OpenGL 4.5")
    assert diagnosis._working_backend("gl") == "none"


def test_a_broken_egl_stops_only_those_who_insist_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "library_problem", lambda: "not built")
    monkeypatch.setattr(render, "probe_egl", lambda: BROKEN)
    result = call("--render", "auto")
    assert result.exit_code == 0
    assert "! egl" in result.stdout
    assert "failed to EGL with glad" in result.stdout
    assert f"→ {hardware.APT_EGL}\n" in result.stdout
    assert "images       1 by tiny: every bit" in result.stdout
    assert "Ready, with 2 warnings." in result.stdout
    result = call("--render", "egl")
    assert result.exit_code == 1
    assert "✗ egl" in result.stdout
    assert "images" not in result.stdout


def test_a_wrong_egl_device_is_told_from_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = render.EglProbe(error="ended with code 1 (Invalid render_device choice: 7 < 1.)")
    monkeypatch.setattr(render, "probe_egl", lambda: probe)
    assert hardware.check_egl("egl").remedy.startswith("unset EGL_VISIBLE_DEVICES")


@pytest.mark.parametrize("library", [None, "libEGL_nvidia.so.0"])
def test_a_gpu_that_egl_does_not_use_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, library: str | None
) -> None:
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: library)
    found = hardware.check_egl("auto")
    assert (found.status, found.detail[:11]) == ("warning", "in software")
    wanted = "egl_vendor.d/10_nvidia.json" if library else "NVIDIA_DRIVER_CAPABILITIES=all"
    assert wanted in found.remedy
    monkeypatch.setattr(render, "probe_egl", lambda: BROKEN)
    assert hardware.APT_EGL in hardware.check_egl("egl").remedy
    assert wanted in hardware.check_egl("egl").remedy


def test_a_gpu_that_draws_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = render.EglProbe(error="", vendor="NVIDIA Corporation", renderer="H100", version="4.6")
    monkeypatch.setattr(render, "probe_egl", lambda: probe)
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    found = hardware.check_egl("auto")
    assert (found.status, found.detail) == ("ok", "hardware: H100, 4.6 (NVIDIA Corporation)")


@without("torch", "the extra torch")
@pytest.mark.parametrize(
    ("answer", "visible", "status", "words"),
    [
        (("CUDA 12.8", 2), None, "ok", "2 x H100; torch 2.9 (CUDA 12.8) sees 2"),
        ((None, 0), None, "warning", "pip install --force-reinstall torch"),
        (("CUDA 12.8", 0), None, "warning", "docker run --gpus all"),
        (("CUDA 12.8", 0), "", "warning", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, answer: Any, visible: str | None, status: str, words: str
) -> None:
    build, count = answer
    answer = {"version": "2.9", "build": build, "devices": [["H100", ""]] * count}
    monkeypatch.setattr(egl_devices, "nvidia_gpus", lambda: GPUS)
    monkeypatch.setattr(hardware, "ask_torch", lambda: answer)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = hardware.check_gpu()
    assert found.status == status
    assert words in f"{found.detail}\n{found.remedy}"


@pytest.mark.slow
@without("torch", "the extra torch")
def test_torch_is_asked_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = hardware.ask_torch()
    assert set(answer) == {"version", "build", "devices"}
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'libcudart.so.12: no such file' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    found = find(diagnose("builtin", "none"), "gpu")
    assert (found.status, found.remedy) == ("error", "pip install --force-reinstall torch")
    assert "libcudart.so.12" in found.detail


def test_every_gpu_is_given_its_egl_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.check_gpu_mapping("auto") is None
    monkeypatch.setattr(egl_devices, "nvidia_gpus", lambda: GPUS)
    monkeypatch.setattr(egl_devices, "egl_devices", lambda: DEVICES)
    found = hardware.check_gpu_mapping("auto")
    assert found is not None
    assert found.status == "ok"
    pairs = "GPU 0 = EGL device 2, GPU 1 = EGL device 1"
    assert found.detail == f"{pairs}; choose with EGL_VISIBLE_DEVICES=DEVICE"
    assert hardware.check_gpu_mapping("tiny") is None
    for chosen, where in (("1", "GPU 1"), ("0", "no GPU")):
        monkeypatch.setenv("EGL_VISIBLE_DEVICES", chosen)
        found = hardware.check_gpu_mapping("egl")
        assert found is not None
        assert found.detail == f"{pairs}; EGL_VISIBLE_DEVICES={chosen} draws on {where}"


def test_gpus_that_egl_does_not_have() -> None:
    found = hardware.explain_mapping(GPUS, DEVICES[:1], None)
    assert (found.status, found.detail) == ("warning", "EGL has none of the 2 GPUs")
    assert "NVIDIA_DRIVER_CAPABILITIES=all" in found.remedy or "10_nvidia.json" in found.remedy
    found = hardware.explain_mapping(GPUS, DEVICES[:2], None)
    assert (found.status, found.detail) == ("warning", "GPU 1 = EGL device 1; EGL lacks GPU 0")


def test_an_absent_pack_is_an_error_and_the_machine_is_tested_all_the_same() -> None:
    found = diagnose("official", "none")
    assets = find(found, "assets")
    assert assets.status == "error"
    assert "no such folder" in assets.detail
    assert "calvin-eval assets pull" in assets.remedy
    physics = find(found, "physics")
    assert (physics.status, physics.detail) == (
        "ok",
        "2 replays of a trace, builtin pack: every bit",
    )


def test_an_altered_pack_is_an_error(official: str, tmp_path: Path) -> None:
    pack = tmp_path / "calvin"
    for entry in assets_store.official_manifest().files:
        target = pack / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(official) / entry.path)
    assert diagnosis.check_assets(str(pack)).status == "ok"
    target.unlink()
    target.write_text("something else")
    result = call("--render", "none", "--assets", str(pack))
    assert result.exit_code == 1
    assert "found 1 of " in result.stdout
    assert "calvin-eval assets pull" in result.stdout
    assert "sim.verify=false" in result.stdout


def test_another_chain_list_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calvin_eval.protocol.BENCHMARK", Benchmark(chain_list="0" * 64))
    found = diagnosis.check_chains()
    assert (found.status, found.remedy[:11]) == ("error", "pip install")
    assert "expected the official list 000000000000; found" in found.detail


def test_a_wrong_hash_is_an_error_unless_the_machine_explains_it(stored: dict[str, Any]) -> None:
    stored["packs"][load_pack("builtin").fingerprint]["physics"]["D"]["head"]["quick"] = "f" * 32
    result = call("--render", "none")
    assert result.exit_code == 1
    first = "1 of 2 replays differ, first scene D (head) after 25 steps"
    assert f"{first}, for no known reason" in result.stdout
    stored["recorded"]["machine"]["libm"] = "other"
    result = call("--render", "none")
    assert result.exit_code == 0
    assert f"{first}: the C library rounds sines differently" in result.stdout
    assert "Ready, with 1 warning." in result.stdout


def test_a_changed_builtin_pack_has_nothing_to_be_compared_with(stored: dict[str, Any]) -> None:
    stored["packs"].clear()
    found = diagnose("builtin", "tiny")
    for name in ("physics", "images"):
        assert find(found, name).status == "warning"
        assert "the builtin pack is not the one of this release" in find(found, name).detail


def test_the_remedy_fits_the_cause() -> None:
    assert judge_physics([state("same")] * 2, "official").status == "ok"
    bullet = judge_physics([state("different", "PyBullet is 3.3")], "official")
    assert bullet.status == "warning"
    assert bullet.remedy == builds.reinstall_command()
    library = judge_physics([state("different", "the C library rounds")], "official")
    assert (library.status, "pybullet" in library.remedy) == ("warning", False)


def test_a_driver_that_draws_otherwise_is_told_from_one_that_draws_nothing() -> None:
    assert judge_images([image("same")], "egl").detail == "1 by egl: 61.0 dB"
    assert judge_images([image("same", "every bit")], "egl").detail == "1 by egl: every bit"
    near = judge_images([image("same"), image("near", "28.4 dB")], "egl")
    assert (near.status, "28.4 dB (at least 35 dB expected" in near.detail) == ("warning", True)
    assert "50_mesa.json" in near.remedy
    blank = judge_images([image("near"), image("different", "9.0 dB")], "egl")
    assert (blank.status, "9.0 dB" in blank.detail) == ("error", True)
    tiny = judge_images([image("different")], "tiny")
    assert (tiny.status, "differs" in tiny.detail) == ("warning", True)
