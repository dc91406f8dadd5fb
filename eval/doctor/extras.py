"""The doctor's look at the optional packages."""

from __future__ import annotations

from calvin_eval.doctor.findings import CheckResult, ok
from calvin_eval.extras import EXTRAS, install_command, missing_modules


def check_extras() -> CheckResult:
    """Which extras are installed; none has to be."""
    missing = [extra for extra in EXTRAS if missing_modules(extra)]
    installed = ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"
    if not missing:
        return ok("extras", installed)
    command = install_command("NAME")
    return ok("extras", f"{installed}; not installed: {', '.join(missing)} ({command})")
