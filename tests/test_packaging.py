"""The wheel, built and installed where the source tree cannot help it."""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from drawn_elsewhere import draw_from_file, save_scene
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path, merged: bool = False, **env: str) -> str:
    """What a command printed to stdout; `merged` with what it printed to stderr."""
    child = subprocess.run(
        [str(part) for part in command], cwd=cwd, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        env={**os.environ, **env},
    )  # fmt: skip
    assert child.returncode == 0, f"{command}:\n{child.stdout}\n{child.stderr}"
    return child.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from the sdist, as a release has them."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "tools.wheel", "--no-isolation", out, cwd=ROOT)
    return out


def find_python(version: str) -> Path:
    """An interpreter of this machine, such as `3.12`; skips the test if there is none."""
    kept = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    on_path = shutil.which(f"python{version}")
    for python in [*map(str, kept), *([on_path] if on_path else [])]:
        # A name on PATH may be a shim without an interpreter behind it.
        command = [python, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.stdout.strip() == version:
            return Path(python)
    pytest.skip(f"needs Python {version}, for example by `pyenv install {version}`")


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The command of a pip under this Python, which installs into other folders."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    folder = tmp_path_factory.mktemp("pip") / "env"  # an environment that uv has made
    venv.create(folder, with_pip=True)
    return [folder / "bin" / "python", "-m", "pip"]


def make_environment(folder: Path) -> Path:
    """Makes an empty environment of this Python, without pip, and returns its interpreter."""
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def lend_packages(python: Path, cwd: Path) -> None:
    """Let another environment import the packages of this one, but not this source tree.

    Installing them again would only test pip; .pth files, such as that of the editable install, are
    not followed in a folder that is named by one.
    """
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=cwd).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"calvin_eval"}
    assert "calvin_eval/py.typed" in names
    assert "calvin_eval/sim/builtin/calvin_env/conf/scene/calvin_scene_D.yaml" in names
    for folder in ("results", "rollouts", "sim", "vla", "wrappers"):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"calvin_eval/{path.relative_to(ROOT)}" in names
    assert [name for name in names if ".so" in name] == ["calvin_eval/sim/drawing/_raster.so"]
    assert wheel.stat().st_size < 3e6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="manylinux is for Linux")
def test_the_wheel_is_for_every_python_on_systems_since_2018(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-manylinux_2_28_{platform.machine()}.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        tags = [line for line in archive.read(name).decode().splitlines() if "Tag: " in line]
    assert tags == [f"Tag: py3-none-manylinux_2_28_{platform.machine()}"]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_draws_the_same_images(
    dist: Path, pip: list[object], tmp_path: Path, version: str
) -> None:
    """The library of the wheel, called from there, and that of this environment, from here."""
    expected = save_scene(tmp_path / "scene.npz")
    python = find_python(version)
    (wheel,) = dist.glob("*.whl")
    run(
        *pip, "install", "--quiet", "--no-compile", "--no-deps", "--target", "packages",
        "--python-version", version, "--only-binary", ":all:", wheel, "numpy", cwd=tmp_path,
    )  # fmt: skip
    script = f"{inspect.getsource(draw_from_file)}\ndraw_from_file('scene.npz', 'images.npz')"
    run(python, "-c", script, cwd=tmp_path, PYTHONPATH=str(tmp_path / "packages"))
    with np.load(tmp_path / "images.npz") as images:
        assert set(images) == set(expected)
        for name, image in expected.items():
            assert images[name].dtype == image.dtype
            assert np.array_equal(images[name], image), name


@pytest.mark.slow
def test_without_a_compiler_the_sources_install_and_say_what_is_missing(
    dist: Path, pip: list[object], tmp_path: Path
) -> None:
    (source,) = dist.glob("*.tar.gz")
    python = make_environment(tmp_path / "env")
    lend_packages(python, tmp_path)
    printed = run(
        *pip, "--python", python, "install", "--verbose", "--no-compile", "--no-deps",
        "--no-build-isolation", source,
        cwd=tmp_path, merged=True, CC="/nonexistent/cc", CXX="/nonexistent/c++",
    )  # fmt: skip
    assert 'building extension "calvin_eval.sim.drawing._raster" failed' in printed
    command = python.parent / "calvin-eval"
    (tmp_path / "looks.py").write_text(
        "class Looks:\n"
        "    requirements = {'rgb': ['static']}\n"
        "    def reset(self): pass\n"
        "    def step(self, obs, goal): return [0.0] * 6 + [1.0]\n"
    )
    child = subprocess.run(
        [command, "--ckpt", "looks.py:Looks", "--num-chains", "1", "--render", "fast"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 2
    assert "the renderer 'fast' is not built" in child.stderr
    assert "Traceback" not in child.stderr
    script = (
        "from calvin_eval.sim import make_env\n"
        "with make_env('D', render='auto') as env: print(env.render_info.backend)\n"
    )
    child = subprocess.run(
        [python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() in ("egl", "tiny")
    assert "Now drawing with Bullet's own renderers" in child.stderr


@pytest.mark.slow
def test_recorded_traces_are_in_the_repository_alone(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert "pyproject.toml" in {Path(name).name for name in names}
    assert [name for name in names if "golden" in name] == []
    assert sdist.stat().st_size < 3e6


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(
    dist: Path, pip: list[object], tmp_path: Path
) -> None:
    python = make_environment(tmp_path / "env")
    (wheel,) = dist.glob("*.whl")
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    lend_packages(python, tmp_path)
    where = run(python, "-c", "import calvin_eval; print(calvin_eval.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "env"))
    command = python.parent / "calvin-eval"
    out = run(
        command, "--ckpt", "builtin:random", "--num-chains", "1", "--out", "run",
        "protocol.steps=20", cwd=tmp_path,
    )  # fmt: skip
    assert "1 chain" in out
    assert (tmp_path / "run" / "summary.json").is_file()


def test_the_declared_dependencies_are_what_is_installed() -> None:
    from importlib.metadata import version

    for text in requires("calvin-eval") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), text
