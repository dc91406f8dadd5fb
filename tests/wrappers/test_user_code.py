"""Files of users: imported from where they stand, as if a script ran, with nothing left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.testing import check_policy

STILL = """
class Model:
    requirements = {}
    def reset(self): ...
    def step(self, obs, goal): return [0.0] * 6 + [1]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose file of models stands two folders down, beside a package of helpers."""
    evaluation = tmp_path / "a-repository" / "experiments_here" / "calvin"
    evaluation.mkdir(parents=True)
    helpers = tmp_path / "a-repository" / "helpers_here"
    helpers.mkdir()
    (helpers / "numbers.py").write_text("SPEED = 0.5\n")
    (evaluation / "beside_it.py").write_text("SPEED = 0.25\n")
    monkeypatch.chdir(tmp_path / "a-repository")
    yield tmp_path / "a-repository"
    for name in [n for n in sys.modules if n.partition(".")[0] in IMPORTED]:
        del sys.modules[name]


IMPORTED = {"experiments_here", "helpers_here", "beside_it"}
FILE = "experiments_here/calvin/model.py"


def load(repository: Path, code: str, **options: object) -> ModuleType:
    """The module of a model file with some code before or in its class."""
    (repository / FILE).write_text(code)
    loaded = resolve(f"{FILE}:Model", options=options)
    check_policy(loaded.policy)
    return sys.modules[type(loaded.policy.model).__module__]  # type: ignore[attr-defined]


class TestImports:
    @pytest.mark.parametrize(
        "line", ["from helpers_here.numbers import SPEED", "from beside_it import SPEED"]
    )
    def test_from_the_current_folder_and_from_the_files_own(
        self, repository: Path, line: str
    ) -> None:
        assert load(repository, line + STILL).SPEED in (0.25, 0.5)

    @pytest.mark.parametrize("line", ["from helpers_here.numbers import SPEED", "import beside_it"])
    def test_later_inside_its_functions(self, repository: Path, line: str) -> None:
        path = list(sys.path)
        load(repository, STILL.replace("return [", f"{line}; return ["))
        assert sys.path == path

    @pytest.mark.parametrize("init", [True, False], ids=["packages", "folders"])
    def test_relative_ones(self, repository: Path, init: bool) -> None:
        folder = (repository / FILE).parent
        if init:
            (folder / "__init__.py").write_text("")
            (folder.parent / "__init__.py").write_text("")
        (folder.parent / "above_it.py").write_text("HIGH = 1\n")
        code = "from .beside_it import SPEED\nfrom ..above_it import HIGH\n"
        module = load(repository, code + STILL)
        assert (module.SPEED, module.HIGH) == (0.25, 1)
        assert module.__name__ == "experiments_here.calvin.model"

    def test_a_folder_further_up_that_has_the_module_is_named(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (repository / FILE).write_text("import helpers_here.numbers\n" + STILL)
        monkeypatch.chdir("/")
        with pytest.raises(
            CheckpointError, match=rf"'helpers_here'\. It is in {repository}: start calvin-eval"
        ):
            resolve(f"{repository / FILE}:Model")

    def test_the_line_that_is_named_may_stand_in_another_file(self, repository: Path) -> None:
        (repository / "helpers_here" / "numbers.py").write_text("\n1 / 0\n")
        with pytest.raises(CheckpointError, match=r"ZeroDivisionError at numbers\.py:2"):
            load(repository, "import helpers_here.numbers\n" + STILL)


class TestAsAScript:
    def test_arguments_are_parsed_as_if_there_were_none(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["calvin-eval", "--ckpt", "x"])
        code = (
            "import argparse, sys\n"
            "parser = argparse.ArgumentParser()\n"
            "parser.add_argument('--width', type=int, default=64)\n"
            "args = parser.parse_args()\n"
        )
        module = load(repository, code + STILL)
        assert module.args.width == 64
        assert sys.argv == ["calvin-eval", "--ckpt", "x"]

    def test_one_that_must_have_arguments_is_explained(self, repository: Path) -> None:
        code = (
            "import argparse\n"
            "parser = argparse.ArgumentParser()\n"
            "parser.add_argument('--width', required=True)\n"
            "args = parser.parse_args()\n"
        )
        with pytest.raises(CheckpointError, match=r"SystemExit at model\.py:4: 2\. Put what runs"):
            load(repository, code + STILL)

    def test_the_current_folder_is_put_back(self, repository: Path) -> None:
        code = (
            "import os\nos.chdir(os.path.dirname(__file__))\nTEXT = open('beside_it.py').read()\n"
        )
        assert load(repository, code + STILL).TEXT == "SPEED = 0.25\n"
        assert Path(os.getcwd()) == repository

    def test_a_file_beside_it_that_is_not_found_is_named(self, repository: Path) -> None:
        with pytest.raises(
            CheckpointError, match=rf"It is in {(repository / FILE).parent}: relative paths start"
        ):
            load(repository, "open('beside_it.py')\n" + STILL)


CONFIGURED = """
from omegaconf import DictConfig, OmegaConf
class Model:
    requirements = {}
    def __init__(self, cfg{annotation}):
        assert isinstance(cfg, DictConfig), type(cfg)
        self.width = OmegaConf.to_container(cfg)["net"]["width"] + len(cfg.net.sizes)
    def reset(self): ...
    def step(self, obs, goal): return [0.0] * 6 + [1]
"""


@pytest.mark.parametrize(
    ("annotation", "interface"),
    [(": DictConfig", {}), (": 'DictConfig | None' = None", {}), ("", {"arguments": "omegaconf"})],
)
@pytest.mark.parametrize("named", [True, False])
def test_configurations_of_omegaconf(
    repository: Path, annotation: str, interface: dict[str, str], named: bool
) -> None:
    (repository / FILE).write_text(CONFIGURED.replace("{annotation}", annotation))
    table = {"net": {"width": 64, "sizes": [1, 2]}}
    options = {"cfg": table} if named else table
    loaded = resolve(f"{FILE}:Model", options=options, interface=interface)
    assert loaded.policy.model.width == 66  # type: ignore[attr-defined]


def test_namespaces_of_a_parser(repository: Path) -> None:
    (repository / FILE).write_text(
        "import argparse\n"
        + STILL.replace(
            "    def reset",
            "    def __init__(self, args: argparse.Namespace, other=None):\n"
            "        assert isinstance(args, argparse.Namespace), type(args)\n"
            "        self.width = args.net.width + args.layers[0].size\n"
            "    def reset",
        )
    )
    options = {"net": {"width": 64}, "layers": [{"size": 2}]}
    loaded = resolve(f"{FILE}:Model", options=options)
    assert loaded.policy.model.width == 66  # type: ignore[attr-defined]
