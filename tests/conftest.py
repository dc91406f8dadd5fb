"""What tests share: the recorded traces, the official assets, and a summary of skipped tests."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from requirements import need_egl, need_official, skip, skip_lines

from calvin_eval.extras import missing_extra, missing_modules
from calvin_eval.wrappers.loaders import user_code

ROOT = Path(__file__).resolve().parent.parent
# Whatever is started in the background by a shell ignores Ctrl-C, and so do its children.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Examples are not timed: a busy machine would make them fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# Tests and their policy processes share few cores: threads that wait for each other would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def official() -> str:
    """Path of a mees/calvin checkout with the official assets."""
    return str(need_official())


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the traces and images recorded from upstream's own code: tests/golden."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def initial_states(golden: Path) -> Any:
    """`robot_obs` (1000, 15) and `scene_obs` (1000, 24) of the official chains."""
    return dict(np.load(golden / "initial_states.npz"))


@pytest.fixture(autouse=True)
def _folders_of_one_test() -> Iterator[None]:
    """Folders of policies stay importable while a process lives: here, while a test runs."""
    yield
    user_code.forget_folders()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked with an extra which is not installed."""
    for marker in item.iter_markers("needs"):
        if missing_modules(marker.args[0]):
            skip(f"the extra {marker.args[0]}")


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
            skip(f"the extra {missing.extra}", allow_module_level=True)


def _importer(trace: TracebackType | None) -> Path:
    """The last file of ours in a traceback."""
    last = ROOT.parent
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and ".venv" not in file.parts:
            last = file
        trace = trace.tb_next
    return last


@pytest.fixture(scope="session")
def egl() -> None:
    """EGL works here."""
    need_egl()


# Which tests were skipped, and what would run them. Modules that are skipped while tests are
# collected are not reported by the workers of pytest-xdist, so workers hand them over at the end.

_modules: dict[str, str] = {}


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember a module that is skipped as a whole."""
    if report.skipped:
        _modules[report.nodeid] = _why(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: hand the skipped modules over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["skipped_modules"] = dict(_modules)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the main process: take the skipped modules over."""
    _modules.update(getattr(node, "workeroutput", {}).get("skipped_modules", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was skipped, and what would run it."""
    reports = terminalreporter.stats.get("skipped", [])
    tests = [_why(report) for report in reports if isinstance(report, pytest.TestReport)]
    lines = [*skip_lines(tests), *_module_lines()]
    if lines:
        terminalreporter.section("skipped, and what would run it")
        for line in lines:
            terminalreporter.line(line)


def _module_lines() -> Iterator[str]:
    for name, why in sorted(_modules.items()):
        yield f"all of {name}: {why.removeprefix('Skipped: ')}"


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
