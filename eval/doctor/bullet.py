"""Which PyBullet is installed, and whether there is exactly one."""

from __future__ import annotations

from calvin_eval.doctor.findings import CheckResult, error, ok, warning
from calvin_eval.sim.builds import TESTED, Build, installed_builds, reinstall_command


def check_pybullet() -> CheckResult:
    """Whether one distribution of PyBullet is installed, in a version whose bits were compared.

    Whether its bits are right on this machine is what the self-test says.
    """
    builds = installed_builds()
    if not builds:
        return _without_distribution()
    if len(builds) > 1:
        return error(
            "pybullet",
            f"{' and '.join(map(str, builds))} are both installed, and overwrite each other's "
            "files: which of them runs is not known",
            reinstall_command(),
        )
    (build,) = builds
    detail = _describe(build)
    if build.version != TESTED[build.distribution]:
        return warning(
            "pybullet",
            f"{detail}: not the tested {TESTED[build.distribution]}, bits may differ",
            reinstall_command(),
        )
    return ok("pybullet", detail)


def _describe(build: Build) -> str:
    """Distribution, version and build; importing it shows whether it knows NumPy."""
    from calvin_eval.sim.bullet import pybullet

    numpy = "with" if pybullet.isNumpyEnabled() else "without"
    return f"{build}, {build.origin} {build.tag}".rstrip() + f", built {numpy} NumPy"


def _without_distribution() -> CheckResult:
    try:
        from calvin_eval.sim.bullet import pybullet
    except ModuleNotFoundError:
        return error("pybullet", "not installed", reinstall_command())
    return warning(
        "pybullet",
        f"{pybullet.__file__} belongs to no installed distribution: its version is not known",
        reinstall_command(),
    )
