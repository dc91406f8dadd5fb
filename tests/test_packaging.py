"""The wheel, built and installed where the source tree cannot help it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path, **env: str) -> str:
    child = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, **env},
    )  # fmt: skip
    assert child.returncode == 0, f"{command}:\n{child.stdout}\n{child.stderr}"
    return child.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=ROOT)
    return out


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
    assert wheel.stat().st_size < 3e6


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(dist: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    # Its dependencies are this environment's: installing them again would only test pip. The
    # editable install of the source tree does not come along, since .pth files are not followed.
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import calvin_eval; print(calvin_eval.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment))
    command = environment / "bin" / "calvin-eval"
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
