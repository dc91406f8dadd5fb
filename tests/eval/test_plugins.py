"""Plug-ins: the example package of the docs is built, installed and used, each of its parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import calvin_eval
from calvin_eval import plugins
from calvin_eval.errors import CheckpointError, PluginError, UnknownNameError
from calvin_eval.sim.drawing.options import check_backend
from calvin_eval.wrappers.loaders import resolve

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "plugin"
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package as an installer leaves it."""
    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(EXAMPLE, source)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    target = source.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture
def call(site: Path, tmp_path: Path) -> Call:
    """Runs calvin-eval where the example package is installed, in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "calvin_eval", *arguments], cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True,
        )  # fmt: skip

    return run


RUN = ("--num-chains", "1", "--workers", "1", "--render", "none", "--quiet", "protocol.steps=3")


def header(folder: Path) -> Any:
    return json.loads((folder / "run" / "header.json").read_text())


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    ("ckpt", "kind", "stages"),
    [
        ("plugin:wave", "class", []),
        ("mine.wave", "wave_file", ["slower"]),
        ("wave://0.3", "wave_server", ["slower"]),
    ],
)
def test_policies_of_a_package_run(
    call: Call, tmp_path: Path, ckpt: str, kind: str, stages: list[str]
) -> None:
    (tmp_path / "mine.wave").write_text('{"height": 0.3}')
    done = call("--ckpt", ckpt, "--out", "run", *RUN)
    assert done.returncode == 0, done.stderr
    policy = header(tmp_path)["policy"]
    assert policy["kind"] == kind
    assert list(policy.get("stages", {}).get("actions", {})) == stages


@pytest.mark.slow
@pytest.mark.processes
def test_stages_and_renderers_of_a_package_are_used(call: Call, tmp_path: Path) -> None:
    (tmp_path / "seeing.py").write_text(
        "from calvin_eval import Requirements\n"
        "from waves import WavePolicy\n"
        "class Seeing(WavePolicy):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.requirements = Requirements(rgb=('static',), depth=('static',))\n"
        "    def act(self, requests):\n"
        "        for request in requests:\n"
        "            image, depth = request.obs['rgb_obs'], request.obs['depth_obs']\n"
        "            assert image['rgb_static'].shape == (200, 200, 3)\n"
        "            assert (image['rgb_static'] == 128).all()\n"
        "            assert (depth['depth_static'] == 1).all()\n"
        "        return super().act(requests)\n"
    )
    arguments = [*RUN[:4], "--quiet", "protocol.steps=3", "--render", "grey"]
    done = call(
        "--ckpt", "seeing.py:Seeing", "--out", "run", *arguments,
        "+policy.actions.half={use: slower, factor: 0.5}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = header(tmp_path)
    drawn = {key: found["renderer"][key] for key in ("backend", "vendor", "version")}
    assert drawn == {"backend": "grey", "vendor": "calvin-eval-waves", "version": "1.0"}
    assert found["policy"]["stages"]["actions"]["half"] == {"use": "slower", "factor": 0.5}
    record = json.loads((tmp_path / "run" / "chains.jsonl").read_text().splitlines()[0])
    assert record.get("error") is None


def test_the_public_names_are_the_documented_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in calvin_eval.__all__:
        assert getattr(calvin_eval, name) is not None
        assert f"calvin_eval.{name}" in page or f"`{name}`" in page, name
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = calvin_eval.nothing_of_that_name


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:  # type: ignore[misc]
    """Registers entry points for one test."""

    def register(*points: EntryPoint) -> None:
        def found(group: str) -> list[EntryPoint]:
            return [point for point in points if point.group == group]

        monkeypatch.setattr(plugins, "entry_points", found)
        plugins.available.cache_clear()

    yield register
    monkeypatch.undo()
    plugins.available.cache_clear()


def test_two_packages_cannot_share_a_name(registered: Callable[..., None]) -> None:
    group = "calvin_eval.policies"
    registered(EntryPoint("one", "a:B", group), EntryPoint("one", "c:D", group))
    with pytest.raises(PluginError, match=r"expected one calvin_eval.policies named 'one', found"):
        plugins.load("policies", "one")


def test_what_cannot_be_imported_is_named(registered: Callable[..., None]) -> None:
    registered(EntryPoint("one", "no_such_module:Thing", "calvin_eval.policies"))
    with pytest.raises(PluginError, match=r"one, an entry point .*No module named 'no_such_mod"):
        resolve("plugin:one")
    with pytest.raises(UnknownNameError, match=r"'two'.*one"):
        resolve("plugin:two")


def test_what_is_no_stage_and_no_policy_is_refused(registered: Callable[..., None]) -> None:
    registered(
        EntryPoint("path", "pathlib:Path", "calvin_eval.stages"),
        EntryPoint("pi", "math:pi", "calvin_eval.policies"),
    )
    with pytest.raises(PluginError, match="a dataclass derived from ActionStage"):
        resolve("builtin:still", actions={"path": {}})
    with pytest.raises(PluginError, match=r"expected a class or a function, found 3\.14"):
        resolve("plugin:pi")


def test_a_loader_that_recognises_nothing_changes_nothing(
    registered: Callable[..., None], tmp_path: Path
) -> None:
    registered(EntryPoint("never", "plugin_parts:Never", "calvin_eval.loaders"))
    file = tmp_path / "x.bin"
    file.write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="of no kind that calvin-eval knows"):
        resolve(str(file))


def test_a_renderer_that_nobody_has_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="renderer"):
        check_backend("gray")
