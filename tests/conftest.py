"""What tests share: the official assets and golden traces, where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import hypothesis
import numpy as np
import pytest

from calvin_eval.extras import install_command, missing_extra, missing_modules

ROOT = Path(__file__).resolve().parent.parent
# Tests and their policy processes share few cores: threads that wait for each other would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
SHARED = Path(os.environ.get("CALVIN_EVAL_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def official() -> str:
    """Path of a mees/calvin checkout with the official assets."""
    path = SHARED / "calvin"
    if not path.is_dir():
        pytest.skip("needs the official assets in ../shared/calvin")
    return str(path)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the traces and images recorded from upstream's own code."""
    path = SHARED / "golden"
    if not path.is_dir():
        pytest.skip("needs the traces recorded from upstream in ../shared/golden")
    return path


@pytest.fixture(scope="session")
def initial_states(golden: Path) -> Any:
    """`robot_obs` (1000, 15) and `scene_obs` (1000, 24) of the official chains."""
    return dict(np.load(golden / "initial_states.npz"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked with an extra which is not installed."""
    for marker in item.iter_markers("needs"):
        if missing_modules(marker.args[0]):
            pytest.skip(f"needs {install_command(marker.args[0])}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that imports what an extra brings and is not installed."""
    try:
        return (yield)
    except ImportError as error:
        _skip_if_optional(error)
        raise


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module:
    """A test module that is skipped as a whole where its imports need a missing extra."""
    module: pytest.Module = _TestModule.from_parent(parent, path=module_path)
    return module


class _TestModule(pytest.Module):
    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if isinstance(error.__cause__, ImportError):
                _skip_if_optional(error.__cause__)
            raise


def _skip_if_optional(error: ImportError) -> None:
    """Skip if a test or the model's folder imported it: the rest has to do without."""
    missing = missing_extra(error, "this test")
    if missing is not None and _importer(error.__traceback__).is_relative_to(ROOT):
        folder = _importer(error.__traceback__).relative_to(ROOT).parts[0]
        if folder in ("tests", "vla"):
            pytest.skip(f"needs {install_command(missing.extra)}", allow_module_level=True)


def _importer(trace: TracebackType | None) -> Path:
    """The last file of ours in a traceback."""
    last = ROOT.parent
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and ".venv" not in file.parts:
            last = file
        trace = trace.tb_next
    return last
