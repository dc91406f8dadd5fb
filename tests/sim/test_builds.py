"""Every build of PyBullet gives the same images, and says which one it is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import bullet_distributions
import numpy as np
import pytest
from packaging.requirements import Requirement

from calvin_eval.sim import builds, machine
from calvin_eval.sim.builds import with_arrays
from calvin_eval.sim.bullet import BulletClient, pybullet

RGBA = np.array([0, 1, 127, 128, 254, 255] * 4, np.uint8).reshape(2, 3, 4)
DEPTH = np.array([0, 1, 1 / 3, np.nextafter(np.float32(1), 0), 1e-45, 0.98], np.float32)
MASK = np.array([-1, 0, 1, 2**31 - 1, -(2**31), 1 << 24], np.int32)

# The same script twice: with the build that is installed, and as if that one had no NumPy.
DRAWS = """
import sys, json, pybullet
if sys.argv[1] == "tuples":
    draw = pybullet.getCameraImage
    def tuples(*args, **kwargs):
        width, height, *pixels = draw(*args, **kwargs)
        flat = [p.ravel().tolist() if hasattr(p, "ravel") else p for p in pixels]
        return (width, height, *map(tuple, flat))
    pybullet.getCameraImage, pybullet.isNumpyEnabled = tuples, lambda: 0
from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.selftest_trace import image_hash
chain = load_chains("official")[0]
with make_env("D", render="tiny") as env:
    obs = env.reset(chain.robot_obs, chain.scene_obs)
images = {**obs["rgb_obs"], **obs["depth_obs"]}
print(json.dumps({k: [str(v.dtype), v.shape, image_hash(v)] for k, v in images.items()}))
"""


def test_tuples_become_the_arrays_of_the_other_builds() -> None:
    def image(*args: int, **kwargs: int) -> object:
        assert (args, kwargs) == ((3, 2), {"flags": 4})
        return 3, 2, *(tuple(values.ravel().tolist()) for values in (RGBA, DEPTH, MASK))

    width, height, *found = with_arrays(image)(3, 2, flags=4)
    assert (width, height) == (3, 2)
    for array, expected in zip(found, (RGBA, DEPTH.reshape(2, 3), MASK.reshape(2, 3)), strict=True):
        assert array.dtype == expected.dtype  # type: ignore[attr-defined]
        assert np.array_equal(array, expected)
        assert array.flags.writeable


def test_this_build_gives_arrays_to_everybody() -> None:
    bullet = BulletClient()
    try:
        for draw in (bullet.getCameraImage, pybullet.getCameraImage):
            width, height, rgba, depth, mask = draw(6, 4, renderer=pybullet.ER_TINY_RENDERER)
            assert (width, height) == (6, 4)
            assert (rgba.shape, rgba.dtype) == ((4, 6, 4), np.uint8)
            assert (depth.shape, depth.dtype) == ((4, 6), np.float32)
            assert (mask.shape, mask.dtype) == ((4, 6), np.int32)
    finally:
        bullet.close()


@pytest.mark.slow
def test_a_build_without_numpy_draws_the_same_images() -> None:
    def draws(build: str) -> dict[str, object]:
        command = [sys.executable, "-c", DRAWS, build]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(child.stdout))

    assert draws("tuples") == draws("as installed")


@pytest.mark.parametrize(
    ("tag", "origin"),
    [
        ("cp311-cp311-manylinux_2_17_x86_64", "PyPI wheel"),
        ("cp311-cp311-linux_x86_64", "local build"),
        ("cp313-cp313-macosx_14_0_arm64", "unknown origin"),
        ("", "unknown origin"),
    ],
)
def test_a_wheels_tag_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tag: str, origin: str
) -> None:
    bullet_distributions.install(monkeypatch, tmp_path, ("pybullet", "3.2.7"), tag=tag)
    (build,) = builds.installed_builds()
    assert (str(build), build.tag, build.origin) == ("pybullet 3.2.7", tag, origin)


def test_the_facts_of_a_machine_name_the_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bullet_distributions.install(monkeypatch, tmp_path, ("pybullet-arm64", "3.2.8"))
    facts = machine.machine_facts()
    assert facts["pybullet"] == "3.2.8"
    assert facts["distribution"] == "pybullet-arm64"
    assert facts["wheel"] == bullet_distributions.LINUX_WHEEL
    assert facts["images"] == ("arrays" if pybullet.isNumpyEnabled() else "tuples")


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ([], "unknown"),
        ([("pybullet", "1"), ("pybullet-arm64", "2")], "pybullet 1 and pybullet-arm64 2"),
    ],
)
def test_nothing_is_claimed_about_none_or_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: list[tuple[str, str]], words: str
) -> None:
    bullet_distributions.install(monkeypatch, tmp_path, *installed)
    facts = machine.machine_facts()
    assert {facts[key] for key in ("pybullet", "distribution", "build", "wheel")} == {words}


def test_two_tested_builds_do_not_explain_a_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bullet_distributions.install(monkeypatch, tmp_path, ("pybullet-arm64", "3.2.8"))
    here = machine.machine_facts()
    for version, causes in (("3.2.7", 0), ("3.2.5", 2)):
        recorded = {**here, "distribution": "pybullet", "pybullet": version}
        assert len(machine.differences(recorded)) == causes


def test_pyproject_asks_for_the_distribution_that_the_remedy_installs() -> None:
    needed = [Requirement(text) for text in metadata.requires("calvin-eval") or []]
    needed = [one for one in needed if one.name in builds.TESTED]
    assert {one.name for one in needed} == set(builds.TESTED)
    for name in builds.TESTED:
        (one,) = (one for one in needed if one.name == name)
        assert one.specifier.contains(builds.TESTED[name])
        assert one.marker is not None
        assert one.marker.evaluate() == (name == builds.fitting_distribution())
    newer = {"python_version": "3.13", "python_full_version": "3.13.1", "sys_platform": "linux"}
    older = {"python_version": "3.10", "python_full_version": "3.10.1", "sys_platform": "linux"}
    for where, name in ((newer, "pybullet-arm64"), (older, "pybullet")):
        assert [one.name for one in needed if one.marker and one.marker.evaluate(where)] == [name]
    mac = {**older, "sys_platform": "darwin"}
    assert [one.name for one in needed if one.marker and one.marker.evaluate(mac)] == [
        "pybullet-arm64"
    ]
