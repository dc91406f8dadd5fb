from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from requirements import need_renderer, without

from calvin_eval.errors import RenderError
from calvin_eval.sim import egl_devices, load_chains, load_pack, machine, make_env, render, selftest
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.selftest import full_selftest, has_reference, quick_selftest, references
from calvin_eval.sim.selftest_trace import FULL_STEPS, QUICK_STEPS, TraceReplay, actions, psnr

PACK = load_pack("builtin")
REMEDY = "python -m calvin_eval.sim.selftest --write --assets ../shared/calvin"


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The references, free to be changed."""
    copy = deepcopy(references())
    monkeypatch.setattr(selftest, "references", lambda: copy)
    return copy


def drawing(monkeypatch: pytest.MonkeyPatch, images: Mapping[str, Any]) -> None:
    """Let replays compute what is stored for scene D and draw the given images."""
    hashes = references()["packs"][PACK.fingerprint]["physics"]["D"]["pinned"]
    monkeypatch.setattr(selftest, "SCENES", ("D",))
    monkeypatch.setattr(selftest, "REVISIONS", ("pinned",))
    monkeypatch.setattr(
        selftest, "replay", lambda *args, **options: TraceReplay(hashes=hashes, images=images)
    )


def noisy(name: str, amount: float) -> Any:
    image = selftest.frames()[name].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, amount, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_the_state_hash_is_over_both_arrays_and_every_bit() -> None:
    state = {"robot_obs": np.zeros(15), "scene_obs": np.zeros(24)}
    first = state_hash(state)
    assert len(first) == 32
    assert first == state_hash({name: list(values) for name, values in state.items()})
    for name in state:
        changed = {**state, name: np.where(np.arange(len(state[name])) == 3, 5e-324, 0)}
        assert state_hash(changed) != first


@pytest.mark.slow
def test_the_trace_touches_a_block_the_button_and_the_drawer() -> None:
    assert len(actions()) == FULL_STEPS == 200
    ends = {}
    for revision in ("pinned", "head"):
        with make_env("D", revision=revision) as env:
            chain = load_chains("official")[0]
            env.start(chain.robot_obs, chain.scene_obs)
            start = env.get_state_obs()["scene_obs"]
            for action in actions():
                env.advance(action)
            ends[revision] = env.get_state_obs()["scene_obs"]
    moved = np.abs(ends["pinned"] - start)
    assert moved[1] > 0.01, "the drawer"
    assert moved[6:].reshape(3, 6)[:, :2].max() > 0.01, "a block"
    assert (ends["pinned"][5], ends["head"][5]) == (1, 0), "the LED, by the button"


@pytest.mark.parametrize(("scene", "revision"), [("A", "head"), ("D", "pinned")])
def test_this_machine_computes_what_is_stored(scene: str, revision: Any) -> None:
    assert has_reference(PACK), f"the built-in pack has changed: {REMEDY}"
    result = quick_selftest(PACK, scene, revision)
    assert result.outcome == "same", result.message


def test_the_official_pack_has_references_too(official: str) -> None:
    pack = load_pack(official)
    assert has_reference(pack), REMEDY
    result = quick_selftest(pack, "B", "pinned")
    assert result.outcome == "same", result.message


def test_every_scene_and_revision_has_its_own_states() -> None:
    for entry in references()["packs"].values():
        physics = entry["physics"]
        assert len({physics[scene]["pinned"]["quick"] for scene in physics}) == 4
        for scene in "BCD":
            pinned, head = physics[scene]["pinned"], physics[scene]["head"]
            assert pinned["quick"] == head["quick"]
            assert pinned["full"] != head["full"]


@pytest.mark.slow
def test_the_full_test_compares_every_scene_and_every_image() -> None:
    results = full_selftest(PACK, "tiny")
    assert [result.message for result in results if result.outcome != "same"] == []
    assert [result.kind for result in results].count("physics") == 8
    assert [result.kind for result in results].count("image") == 16


def test_a_pack_of_ones_own_has_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = replace(PACK, name="custom", fingerprint="0" * 64)
    assert not has_reference(pack)
    result = quick_selftest(pack, "D")
    assert (result.outcome, result.expected) == ("unknown", "")
    assert "no reference" in result.message
    drawing(monkeypatch, {"rgb_static": noisy("tiny_rgb_static", 0)})
    assert {result.outcome for result in full_selftest(pack, "tiny")} == {"unknown"}


@pytest.mark.slow
def test_a_difference_names_both_hashes_and_the_cause(stored: dict[str, Any]) -> None:
    entry = stored["packs"][PACK.fingerprint]["physics"]["D"]["pinned"]
    found, entry["quick"] = entry["quick"], "f" * 32
    stored["recorded"]["machine"] = machine.machine_facts()
    result = quick_selftest(PACK, "D")
    assert result.outcome == "different"
    assert f"expected {'f' * 32}, found {found}" in result.message
    assert "Likely cause: unknown" in result.message
    stored["recorded"]["machine"]["pybullet"] = "3.2.5"
    result = quick_selftest(PACK, "D")
    assert "Likely cause: PyBullet" in result.message
    assert "(the reference: 3.2.5)" in result.message
    assert json.loads(json.dumps(result.as_dict()))["causes"] == list(result.causes)


def test_the_first_part_that_differs_is_named(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing(monkeypatch, {})
    entry = stored["packs"][PACK.fingerprint]["physics"]["D"]["pinned"]
    entry["full"] = "f" * 32
    (result,) = full_selftest(PACK, "none")
    assert f"after {FULL_STEPS} steps" in result.subject
    entry["quick"] = "f" * 32
    (result,) = full_selftest(PACK, "none")
    assert f"after {QUICK_STEPS} steps" in result.subject


@pytest.mark.slow
def test_a_c_library_with_other_sines_is_found_and_named() -> None:
    """What a processor without FMA does, which centimetres hang on: tried with glibc's switch."""
    script = (
        "from calvin_eval.sim import load_pack, machine, selftest\n"
        "result = selftest.quick_selftest(load_pack(), 'D')\n"
        "print(machine.libm_fingerprint(), result.outcome, *result.causes)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4"},
    )  # fmt: skip
    fingerprint, outcome, *causes = child.stdout.split(maxsplit=2)
    if fingerprint == machine.libm_fingerprint():
        pytest.skip("this C library has one kind of sine only")
    assert outcome == "different"
    assert "rounds sines differently" in causes[0]


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("pybullet", "PyBullet is 3.2.7 (the reference: else)"),
        ("distribution", "PyBullet is the distribution pybullet (the reference: else)"),
        ("build", "PyBullet is a build of this kind: PyPI wheel (the reference: else)"),
        ("processor", "(the reference: else)"),
        ("libm", "rounds sines differently"),
        ("denormals", "denormal numbers are kept in this process"),
    ],
)
def test_what_changes_bits_is_compared(fact: str, words: str) -> None:
    here = machine.machine_facts() | {
        "pybullet": "3.2.7", "distribution": "pybullet", "build": "PyPI wheel",
    }  # fmt: skip
    assert machine.differences(machine.machine_facts()) == ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "machine_facts", lambda: here)
        (cause,) = machine.differences({**here, fact: "else"})
    assert words in cause


@without("torch", "the extra torch")
@pytest.mark.slow
def test_a_process_that_flushes_denormals_is_seen() -> None:
    script = (
        "import torch; torch.set_flush_denormal(True)\n"
        "from calvin_eval.sim import machine; print(machine.machine_facts()['denormals'])"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.stdout == "flushed to zero\n"
    assert machine.machine_facts()["denormals"] == "kept"


def test_tiny_images_have_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(monkeypatch, {"rgb_static": noisy("tiny_rgb_static", 0)})
    assert [result.outcome for result in full_selftest(PACK, "tiny")] == ["same", "same"]
    one_off = noisy("tiny_rgb_static", 0)
    one_off[0, 0, 0] ^= 1
    drawing(monkeypatch, {"rgb_static": one_off})
    image = full_selftest(PACK, "tiny")[1]
    assert image.outcome == "near"
    assert "dB from it" in image.found
    drawing(monkeypatch, {"rgb_static": np.zeros_like(one_off)})
    assert full_selftest(PACK, "tiny")[1].outcome == "different"


@pytest.mark.parametrize(("noise", "outcome"), [(1, "same"), (12, "near"), (90, "different")])
def test_egl_images_have_to_be_alike(
    monkeypatch: pytest.MonkeyPatch, noise: float, outcome: str
) -> None:
    drawing(monkeypatch, {"rgb_gripper": noisy("egl_rgb_gripper", noise)})
    image = full_selftest(PACK, "egl")[-1]
    assert (image.kind, image.outcome) == ("image", outcome), image.message
    assert image.expected == "at least 35 dB"
    assert ("drawn by" in image.message) == (outcome != "same")


@pytest.mark.slow
@pytest.mark.parametrize("render", ["fast", "gl"])
def test_our_own_renderers_draw_like_egl(render: str) -> None:
    need_renderer(render)
    found = full_selftest(PACK, render)[-2:]
    assert [result.outcome for result in found] == ["same", "same"]
    assert all(float(result.found.split()[0]) > 45 for result in found)


@pytest.mark.slow
def test_egl_draws_like_the_reference(egl: None) -> None:
    found = selftest._like_egl("egl")
    assert len(found) == 2
    if "Mesa" in render.probe_egl().version:
        assert [result.outcome for result in found] == ["same", "same"]
    assert "different" not in [result.outcome for result in found]


def test_the_distance_of_images() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, black) == np.inf
    assert psnr(black, grey) == pytest.approx(20 * np.log10(255 / 51))
    with pytest.raises(RenderError, match=r"\(4, 4, 3\); found \(2, 4, 3\)"):
        psnr(black, grey[:2])


@pytest.mark.slow
def test_references_can_be_written_anew(
    egl: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "SCENES", ("D",))
    monkeypatch.setattr(selftest, "_REFERENCES", tmp_path / "selftest.json")
    monkeypatch.setattr(selftest, "_FRAMES", tmp_path / "frames.npz")
    shipped, images = references(), selftest.frames()
    try:
        assert selftest.main(["--write"]) == 0
        written = references()
        assert written["packs"][PACK.fingerprint]["physics"] == {
            "D": shipped["packs"][PACK.fingerprint]["physics"]["D"]
        }
        assert set(selftest.frames()) == set(images)
        written["packs"][PACK.fingerprint]["physics"]["D"]["head"]["full"] = "stale"
        capsys.readouterr()
        assert selftest.main([]) == 1
        assert "scene D (head) after 200 steps: expected stale" in capsys.readouterr().err
    finally:
        references.cache_clear()
        selftest.frames.cache_clear()


class FakeEgl:
    """Mesa's software device first, then two GPUs in the opposite order of nvidia-smi's."""

    def __init__(self, *, persistent: bool) -> None:
        nvidia = "EGL_NV_device_cuda EGL_EXT_device_drm EGL_EXT_device_query_name"
        if persistent:
            nvidia += " EGL_EXT_device_persistent_id"
        self._extensions = ["EGL_MESA_device_software", nvidia, nvidia]

    def devices(self) -> list[int]:
        return [0, 1, 2]

    def string(self, device: int, name: int) -> str:
        texts = {0x3055: self._extensions[device], 0x3053: "NVIDIA", 0x3233: "/dev/dri/card0"}
        return texts.get(name, "a GPU")

    def number(self, device: int, name: int) -> int | None:
        assert (device, name) != (0, 0x323A), "not a CUDA device"
        return [None, 1, 0][device]

    def binary(self, device: int, name: int) -> bytes:
        assert "persistent_id" in self._extensions[device], "not in its extensions"
        return bytes([3 - device]) * 16


def gpu(index: int, byte: str) -> egl_devices.Gpu:
    parts = (8, 4, 4, 4, 12)
    return egl_devices.Gpu(
        index=index, name="H100", uuid="GPU-" + "-".join(byte * (n // 2) for n in parts)
    )


@pytest.mark.parametrize("persistent", [True, False])
def test_gpus_are_matched_by_uuid_or_else_by_their_cuda_number(persistent: bool) -> None:
    devices = egl_devices.describe(FakeEgl(persistent=persistent))
    assert [device.software for device in devices] == [True, False, False]
    assert [bool(device.uuid) for device in devices] == [False, persistent, persistent]
    assert [device.cuda for device in devices] == [None, 1, 0]
    gpus = [gpu(0, "01"), gpu(1, "02"), gpu(2, "03")]
    assert egl_devices.match(gpus, devices) == {0: 2, 1: 1}


def test_the_uuid_decides_where_the_numbers_disagree() -> None:
    devices = egl_devices.describe(FakeEgl(persistent=True))
    assert egl_devices.match([gpu(0, "02"), gpu(1, "01")], devices) == {0: 1, 1: 2}
    assert egl_devices.match([gpu(0, "07")], devices) == {}


def test_nvidia_smi_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert egl_devices.nvidia_gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5a3f6f5e-0000-1111-2222-0123456789ab)'\n"
        "echo '  MIG 1g.10gb Device 0: (UUID: MIG-0d1c)'\n"
        "echo 'GPU 1: NVIDIA A100-SXM4 (UUID: GPU-00000000-0000-1111-2222-0123456789ab)'\n"
    )
    program.chmod(0o755)
    found = egl_devices.nvidia_gpus()
    assert [(one.index, one.name) for one in found] == [
        (0, "NVIDIA H100 80GB HBM3"),
        (1, "NVIDIA A100-SXM4"),
    ]
    assert found[0].uuid == "GPU-5a3f6f5e-0000-1111-2222-0123456789ab"
    program.write_text("#!/bin/sh\necho 'GPU 0: x (UUID: GPU-0)'; exit 9\n")
    assert egl_devices.nvidia_gpus() == []


def test_the_real_library_is_asked_in_a_process_of_its_own(egl: None) -> None:
    devices = egl_devices.egl_devices()
    assert [device.index for device in devices] == list(range(len(devices)))
    assert devices
    if "llvmpipe" in render.probe_egl().renderer:
        assert any(device.software for device in devices)


def test_a_library_that_kills_its_process_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'cannot open libEGL.so.1' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RenderError, match=r"code 3 \(cannot open libEGL.so.1\). Install libegl1"):
        egl_devices.egl_devices()
