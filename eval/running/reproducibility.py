"""Before the first chain: is the policy one that a second run can repeat?"""

from __future__ import annotations

from dataclasses import asdict

from calvin_eval.results.header_sections import ReproducibilityFacts
from calvin_eval.results.official import NOT_REPRODUCIBLE
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.asking_twice import ask_twice
from calvin_eval.rollouts.policy_errors import PolicyLostError
from calvin_eval.running.prepare import RunPlan
from calvin_eval.running.recorder import Display

HEADER_KEY = "reproducibility"


def check_reproducible(plan: RunPlan, folder: RunFolder, display: Display) -> None:
    """Ask the policy twice, say whether it gave the same, and keep that in the header.

    A run that is resumed was asked already. Not asked are policies that a worker loads for itself
    (built-in ones and recordings), and those that read the simulator. A policy behind a server is
    asked in sessions that end before the run begins.
    """
    if not _can_be_asked(plan) or folder.header().reproducibility is not None:
        return
    asked = _asked(plan, display)
    folder.update_header(**{HEADER_KEY: asdict(asked)})
    if asked.reproducible is False:
        display.note(f"warning: {NOT_REPRODUCIBLE} ({asked.found})")
    else:
        display.note(f"reproducible: {asked.found}")


def _can_be_asked(plan: RunPlan) -> bool:
    policy = plan.policy
    link = policy.hosts[0].link
    away = link.inline is not None and link.inline.elsewhere
    kept = link.address is not None or link.here is not None or away
    own = policy.metadata.get("kind") != "builtin"
    return plan.config.engine.ask_twice and kept and own and not policy.requirements.privileged


def _asked(plan: RunPlan, display: Display) -> ReproducibilityFacts:
    host, patience = plan.policy.hosts[0], plan.config.engine.step_timeout
    try:
        return ask_twice(host.link, plan.inputs.chains, plan.inputs.instructions, patience)
    except PolicyLostError as error:
        if not host.alive or host.hangs(patience / 2):
            end = host.replace()
            display.note(f"policy process died: {end.splitlines()[0]}; started another")
        return ReproducibilityFacts(
            reproducible=None, decisions=0, found=f"it did not answer: {error}"
        )
