"""What some tests need, and what brings it: the one home of the reasons for skipping a test."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

from calvin_eval.errors import AssetError
from calvin_eval.extras import EXTRAS, install_command
from calvin_eval.sim.assets.store import ASSETS_VARIABLE, find_official

SHARED = Path(os.environ.get("CALVIN_EVAL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
"""Folder beside the checkout with data that is not part of the repository."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

REMEDIES = {
    "the official assets": "calvin-eval assets pull",
    "the captured frames": f"frames of real policy servers, in {SHARED / 'spec/captures'}",
    "EGL": "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libgles2",
    "Mesa's llvmpipe": "a machine or container without a GPU driver",
    "OpenGL 4.5 through EGL": f"{install_command('gl')}; "
    "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libgles2",
    "the compiled renderer": "a C++ compiler, then: pip install --force-reinstall --no-deps -e .",
    "git": "apt-get install git",
    "Chromium": "apt-get install chromium chromium-driver",
    "upstream's calvin_env": "pip install calvin_env from a checkout of mees/calvin_env",
    "LeRobot": "make test-lerobot",
    "RoboVLMs' history": "CALVIN_EVAL_ROBOVLMS_GIT=<a git directory of Robot-VLAs/RoboVLMs>",
    "vla-eval": "pip install vla-eval",
    "Stable-Baselines3": "pip install stable-baselines3",
    "TorchRL": "pip install torchrl",
    **{f"the extra {name}": install_command(name) for name in EXTRAS},
}
"""From what a test may need to what brings it."""


def reason(need: str, detail: str = "") -> str:
    """Why a test is skipped, as `skip_lines` understands it.

    Args:
        need: a key of `REMEDIES`.
        detail: what was found instead.
    """
    return f"needs {need}: {REMEDIES[need]}{f' ({detail})' if detail else ''}"


def skip(need: str, detail: str = "", *, allow_module_level: bool = False) -> NoReturn:
    """Skip the running test, since something of `REMEDIES` is missing."""
    pytest.skip(reason(need, detail), allow_module_level=allow_module_level)


def need_package(module: str, need: str) -> Any:
    """A package that a test, or a whole test module, needs; skips without it."""
    return pytest.importorskip(module, reason=reason(need))


def without(module: str, need: str) -> pytest.MarkDecorator:
    """A mark that skips tests where a package is missing."""
    return pytest.mark.skipif(find_spec(module) is None, reason=reason(need))


@lru_cache(maxsize=1)
def official_assets() -> Path | None:
    """A checkout of mees/calvin, or what `assets pull` made of it; None without either.

    Looked for in `CALVIN_EVAL_ASSETS`, in `../shared/calvin` and in calvin-eval's cache.
    """
    if os.environ.get(ASSETS_VARIABLE):
        return find_official()  # whoever names a place that is none is to hear it
    if (SHARED / "calvin").is_dir():
        return SHARED / "calvin"
    try:
        return find_official()
    except AssetError:
        return None


def need_official() -> Path:
    """Where the official assets are; skips without them."""
    return official_assets() or skip("the official assets")


def need_egl(renderer: str = "") -> None:
    """Skip without EGL, or if it draws by another renderer than the one named."""
    from calvin_eval.sim.render import probe_egl

    found = probe_egl()
    if found.error:
        skip("EGL", found.error.strip().splitlines()[0])
    if renderer not in found.renderer:
        skip("Mesa's llvmpipe", f"found {found.renderer}")


def need_renderer(name: str) -> None:
    """Skip if one of our own renderers, `fast` or `gl`, cannot draw here."""
    from calvin_eval.sim.drawing.fast import library_problem
    from calvin_eval.sim.drawing.gl_context import context_problem

    problem = library_problem() if name == "fast" else context_problem()
    if problem:
        skip("the compiled renderer" if name == "fast" else "OpenGL 4.5 through EGL", problem)


def need_browser() -> tuple[str, str]:
    """Paths of Chromium and of its driver; skips without them."""
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        skip("Chromium")
    return binary, driver


_REASON = re.compile(r"(?:Skipped: )?needs (?P<need>[^:]+): (?P<remedy>.*)", re.DOTALL)


def skip_lines(reasons: Iterable[str]) -> list[str]:
    """What skipped tests need and what brings it, one line for each need, the most wanted first.

    Args:
        reasons: why tests were skipped, one for each test.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for text in reasons:
        found = _REASON.match(text)
        if found is None:
            counts[text.removeprefix("Skipped: "), ""] += 1
            continue
        need = found["need"]
        counts[f"needs {need}", REMEDIES.get(need, found["remedy"])] += 1
    return [
        f"{count} {_plural(count, why)}{f': {remedy}' if remedy else ''}"
        for (why, remedy), count in counts.most_common()
    ]


def _plural(count: int, why: str) -> str:
    if not why.startswith("needs "):
        return f"test{'s' if count > 1 else ''} skipped: {why}"
    return f"test {why}" if count == 1 else f"tests need {why.removeprefix('needs ')}"
