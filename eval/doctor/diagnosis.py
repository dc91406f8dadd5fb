"""Finds out before a GPU hour is spent: is everything here that a run needs, and is it sound?

Every check is a function that returns findings. None may end the others: one that breaks is an
error among the findings. Heavy imports wait inside the checks, so that a missing package is a
finding too.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from calvin_eval.doctor import hardware
from calvin_eval.doctor.bullet import check_pybullet
from calvin_eval.doctor.extras import check_extras
from calvin_eval.doctor.findings import CheckResult, error, from_exception, ok, warning
from calvin_eval.errors import AssetError
from calvin_eval.sim.builds import TESTED, fitting_distribution, reinstall_command

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from calvin_eval.sim.packs import AssetPack
    from calvin_eval.sim.selftest import SelftestResult

__all__ = ["CheckResult", "diagnose", "examine"]

DISTRIBUTION = "calvin-eval"
_OLDEST_PYTHON = (3, 10)
_SHOWN = ("numpy", "scipy")

Check: TypeAlias = Callable[[], "CheckResult | Iterable[CheckResult] | None"]


def diagnose(assets: str = "builtin", render: str = "auto") -> list[CheckResult]:
    """All findings.

    Args:
        assets: `builtin`, `official`, or the path of a checkout.
        render: `auto`, `fast`, `gl`, `egl`, `tiny` or `none`.
    """
    return list(examine(assets, render))


def examine(assets: str = "builtin", render: str = "auto") -> Iterator[CheckResult]:
    """`diagnose`, one finding after the other as they are made."""
    from calvin_eval.sim.drawing.fast import library_problem

    by_bullet = "fast" if render == "auto" and not library_problem() else render
    checks: tuple[tuple[str, Check], ...] = (
        ("python", check_python),
        ("packages", check_packages),
        ("extras", check_extras),
        ("pybullet", check_pybullet),
        ("machine", hardware.check_machine),
        ("disk", hardware.check_disk),
        ("ffmpeg", hardware.check_ffmpeg),
        ("assets", partial(check_assets, assets)),
        ("chains", check_chains),
        ("gpu", hardware.check_gpu),
        ("fast", partial(hardware.check_fast, render)),
        ("gl", partial(hardware.check_gl, render)),
        ("egl", partial(hardware.check_egl, by_bullet)),
        ("gpu for egl", partial(hardware.check_gpu_mapping, by_bullet)),
        ("self-test", partial(check_selftest, assets, render)),
    )
    for name, check in checks:
        yield from _findings(name, check)


def _findings(name: str, check: Check) -> Iterable[CheckResult]:
    try:
        found = check()
        if isinstance(found, CheckResult):
            return [found]
        return [] if found is None else list(found)
    except Exception as exception:
        return [from_exception(name, exception)]


def check_python() -> CheckResult:
    """The interpreter."""
    detail = f"{platform.python_version()} ({platform.system()}, {platform.machine()})"
    if sys.version_info < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        return error("python", detail, f"Use Python {oldest} or newer: python3 -m venv .venv")
    return ok("python", detail)


def check_packages(requirements: Iterable[str] | None = None) -> CheckResult:
    """Whether the installed packages are in the ranges that this package declares.

    Args:
        requirements: such as `numpy>=1.24`; those of the installed distribution by default.
    """
    from packaging.requirements import Requirement

    if requirements is None:
        requirements = metadata.requires(DISTRIBUTION) or ()
    parsed = map(Requirement, requirements)
    needed = [
        one
        for one in parsed
        if one.marker is None or one.marker.evaluate({"extra": ""})
        if one.name not in TESTED  # either of these will do: check_pybullet
    ]
    found = {one.name: _version(one.name) for one in needed}
    wrong = [one for one in needed if not _fits(one, found[one.name])]
    if wrong:
        detail = ", ".join(
            f"{one.name} {found[one.name] or 'missing'} (needs {one.specifier})" for one in wrong
        )
        wanted = " ".join(f'"{one.name}{one.specifier}"' for one in wrong)
        return error("packages", detail, f"pip install {wanted}")
    shown = ", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)
    return ok("packages", f"all {len(needed)} as needed; {shown}")


def _fits(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_assets(assets: str) -> CheckResult:
    """Whether every file of the pack has the hash that it should have."""
    from calvin_eval.sim.assets.store import identify

    try:
        name, _, fingerprint = identify(assets)
    except AssetError as problem:
        found = from_exception("assets", problem)
        if assets in ("builtin", "official") or not Path(assets).is_dir():
            return found
        as_it_is = "or, to run on this pack as it is: calvin-eval ... sim.verify=false"
        return replace(found, remedy=f"{found.remedy}\n{as_it_is}")
    sound = "" if name == "builtin" else ", every file as expected"  # that is what it is
    return ok("assets", f"{name}, fingerprint {fingerprint[:12]}{sound}")


def check_chains() -> CheckResult:
    """Whether the official chains come out as they are known, states included."""
    from calvin_eval.protocol import BENCHMARK
    from calvin_eval.sim.chains import load_chains

    chains = load_chains("official")
    if chains.sha256 != BENCHMARK.chain_list:
        return error(
            "chains",
            f"expected the official list {BENCHMARK.chain_list[:12]}; found {chains.sha256[:12]}",
            f"pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )
    return ok("chains", f"{len(chains)} official, hash {chains.sha256[:12]}")


def check_selftest(assets: str, render: str) -> list[CheckResult]:
    """Replay the stored trace and compare states and images."""
    from calvin_eval.sim.selftest import full_selftest

    backend = _working_backend(render)
    pack = _testable_pack(assets)
    results = full_selftest(pack, backend)
    physics = [result for result in results if result.kind == "physics"]
    images = [result for result in results if result.kind == "image"]
    findings = [judge_physics(physics, pack.name)]
    return [*findings, judge_images(images, backend, pack.name)] if images else findings


def _working_backend(render: str) -> str:
    """What can be tried: a failing renderer has its finding already."""
    if render in ("tiny", "none"):
        return render
    from calvin_eval.sim.drawing.fast import library_problem
    from calvin_eval.sim.drawing.gl_context import context_problem
    from calvin_eval.sim.render import probe_egl

    if render in ("auto", "fast") and not library_problem():
        return "fast"
    if render == "gl":
        return "none" if context_problem() else "gl"
    if render != "fast" and not probe_egl().error:
        return "egl"
    return "tiny" if render == "auto" else "none"


def _testable_pack(assets: str) -> AssetPack:
    """The pack itself, or the built-in one if it is absent, altered or has no reference."""
    from calvin_eval.sim.packs import load_pack
    from calvin_eval.sim.selftest import has_reference

    try:
        pack = load_pack(assets)
    except AssetError:  # has its finding already; the machine can be tested all the same
        return load_pack("builtin")
    return pack if has_reference(pack) else load_pack("builtin")


def judge_physics(results: Sequence[SelftestResult], pack: str) -> CheckResult:
    """One finding about all replays."""
    wrong = [result for result in results if result.outcome != "same"]
    if not wrong:
        return ok("physics", f"{len(results)} replays of a trace, {pack} pack: every bit")
    if wrong[0].outcome == "unknown":
        return _no_reference("physics", pack)
    detail = f"{len(wrong)} of {len(results)} replays differ, first {wrong[0].subject}"
    return _wrong_bits("physics", detail, wrong[0].causes)


def judge_images(results: Sequence[SelftestResult], backend: str, pack: str = "") -> CheckResult:
    """One finding about all images."""
    wrong = [result for result in results if result.outcome != "same"]
    if not wrong:
        bits = all(result.found == "every bit" for result in results) or backend == "tiny"
        found = "every bit" if bits else ", ".join(result.found for result in results)
        return ok("images", f"{len(results)} by {backend}: {found}")
    if wrong[0].outcome == "unknown":
        return _no_reference("images", pack)
    worst = next((result for result in wrong if result.outcome == "different"), wrong[0])
    if backend == "tiny":
        return _wrong_bits("images", f"{worst.subject} differs", worst.causes)
    detail = f"{worst.subject}: {worst.found} ({worst.expected} expected; {worst.causes[0]})"
    if backend == "fast":  # has no driver: another image is a defect
        return error("images", detail, f"pip install --force-reinstall --no-deps {DISTRIBUTION}")
    return _strange_driver(detail, broken=worst.outcome == "different")


def _no_reference(name: str, pack: str) -> CheckResult:
    return warning(
        name,
        f"the {pack} pack is not the one of this release: nothing to compare with",
        f"pip install --force-reinstall --no-deps {DISTRIBUTION} {fitting_distribution()}",
    )


def _wrong_bits(name: str, detail: str, causes: Sequence[str]) -> CheckResult:
    """A difference that has a known cause is a reservation; one that has none, a defect."""
    if not causes:
        return error(name, f"{detail}, for no known reason", reinstall_command())
    detail = f"{detail}: {'; '.join(causes)}"
    if any("PyBullet" in cause for cause in causes):
        return warning(name, detail, reinstall_command())
    return warning(
        name,
        detail,
        "Runs on machines of this kind agree with each other; those on other kinds end up "
        "centimetres away. For the same bits: x86-64 with FMA (since 2013) and glibc.",
    )


def _strange_driver(detail: str, *, broken: bool) -> CheckResult:
    mesa = "export __EGL_VENDOR_LIBRARY_FILENAMES=/usr/share/glvnd/egl_vendor.d/50_mesa.json"
    if broken:
        remedy = f"{mesa}  # draws in software\ncalvin-eval --render tiny ..."
        return error("images", f"not the scene that was to be drawn: {detail}", remedy)
    return warning(
        "images",
        f"this driver draws edges differently: {detail}",
        f"Compare scores of one driver only. To draw as the reference does: {mesa}",
    )
