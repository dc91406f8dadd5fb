"""Whether a score may stand beside published ones, and if not, why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

OFFICIAL_CHAINS = 1000
OFFICIAL_REVISION = "pinned"
OFFICIAL_SCENE = "D"
OFFICIAL_BUDGET = "360 env_steps"
OFFICIAL_RENDERERS = ("egl", "fast")
"""Bullet's EGL plugin, whose images the benchmark's data set has, and our own drawing of them."""
OFFICIAL_SIZES = "static 200x200, gripper 84x84"

_HASH_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class ProtocolFacts:
    """What was run, beside the official values that are data and not constants.

    Attributes:
        pack_fingerprint: of the asset pack in use.
        official_fingerprint: of the official pack.
        revision: of calvin_env whose rules were followed.
        chain_list_hash: of the chain list in use.
        official_chain_list_hash: of the 1000 official chains.
        planned: chains the run was meant to have.
        completed: chains that ended by success or failure.
        errors: chains that ended by an error.
        instructions_hash: of the instructions the policy was given.
        instruction_text: how the policy was given them: `as written`, or something else.
        official_instructions_hash: of the official pack's validation instructions.
        step_budget: of one subtask: a number and what it counts, as in `360 env_steps`.
        policy_reset: when the policy forgets: `subtask`, or something else.
        world_reset: when a fresh, deterministic world is built: `chain`, or something else.
        leftover: what becomes of a finished subtask's remaining actions: `drop`, or something
            else.
        realtime: what the world does while the policy thinks: `waits`, or something else.
        scene: letter of the scene.
        renderer: name of the renderer that made the images, and its options where they are not
            the defaults; `none` if none did.
        fidelity: how near its images are to EGL's, as measured; empty for EGL itself.
        needs_images: whether the policy requires any image.
        image_sizes: sizes in pixels that differ from the benchmark's; empty if none do.
        privileged: whether the policy reads the simulator's own state.
    """

    pack_fingerprint: str
    official_fingerprint: str
    revision: str
    chain_list_hash: str
    official_chain_list_hash: str
    planned: int
    completed: int
    errors: int
    instructions_hash: str
    official_instructions_hash: str
    instruction_text: str
    step_budget: str
    policy_reset: str
    world_reset: str
    leftover: str
    realtime: str
    scene: str
    renderer: str
    fidelity: str = ""
    needs_images: bool
    image_sizes: str
    privileged: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a result is official, and one sentence for each thing that speaks against it.

    Attributes:
        remarks: sentences on what does not, and should be known.
    """

    official: bool
    reasons: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Check:
    subject: str
    expected: Callable[[ProtocolFacts], str]
    found: Callable[[ProtocolFacts], str]
    rule: bool = False  # of how chains are run, which is known before the first of them

    def reason(self, facts: ProtocolFacts) -> str | None:
        expected, found = self.expected(facts), self.found(facts)
        if found and expected == found:
            return None
        return f"{self.subject}: expected {_brief(expected)}, found {_brief(found) or 'nothing'}."


def _brief(value: str) -> str:
    """A hash by its first digits, as people read it; anything else as it is."""
    return value[:_HASH_DIGITS] if re.fullmatch("[0-9a-f]{64}", value) else value


def _renderer_expected(facts: ProtocolFacts) -> str:
    unseen = not facts.needs_images and facts.renderer == "none"
    if unseen or facts.renderer in OFFICIAL_RENDERERS:
        return facts.renderer
    return " or ".join(OFFICIAL_RENDERERS)


_CHECKS = (
    _Check(
        "Fingerprint of the asset pack",
        lambda facts: facts.official_fingerprint,
        lambda facts: facts.pack_fingerprint,
    ),
    _Check(
        "Revision of calvin_env",
        lambda _: OFFICIAL_REVISION,
        lambda facts: facts.revision,
        rule=True,
    ),
    _Check("Scene", lambda _: OFFICIAL_SCENE, lambda facts: facts.scene),
    _Check(
        "Hash of the chain list",
        lambda facts: facts.official_chain_list_hash,
        lambda facts: facts.chain_list_hash,
    ),
    _Check("Planned chains", lambda _: str(OFFICIAL_CHAINS), lambda facts: str(facts.planned)),
    _Check("Completed chains", lambda _: str(OFFICIAL_CHAINS), lambda facts: str(facts.completed)),
    _Check("Chains that ended by an error", lambda _: "0", lambda facts: str(facts.errors)),
    _Check(
        "Hash of the instructions",
        lambda facts: facts.official_instructions_hash,
        lambda facts: facts.instructions_hash,
    ),
    _Check(
        "Instructions",
        lambda _: "as written",
        lambda facts: facts.instruction_text,
        rule=True,
    ),
    _Check(
        "Budget per subtask",
        lambda _: OFFICIAL_BUDGET,
        lambda facts: facts.step_budget,
        rule=True,
    ),
    _Check(
        "Reset of the policy per",
        lambda _: "subtask",
        lambda facts: facts.policy_reset,
        rule=True,
    ),
    _Check("Fresh world per", lambda _: "chain", lambda facts: facts.world_reset, rule=True),
    _Check(
        "Leftover actions of a subtask",
        lambda _: "drop",
        lambda facts: facts.leftover,
        rule=True,
    ),
    _Check(
        "World while the policy thinks",
        lambda _: "waits",
        lambda facts: facts.realtime,
        rule=True,
    ),
    _Check(
        "Size of the policy's images",
        lambda _: OFFICIAL_SIZES,
        lambda facts: facts.image_sizes or OFFICIAL_SIZES,
        rule=True,
    ),
    _Check("Renderer of the policy's images", _renderer_expected, lambda facts: facts.renderer),
    _Check(
        "What the policy sees",
        lambda _: "observations only",
        lambda facts: "the simulator's own state" if facts.privileged else "observations only",
        rule=True,
    ),
)


def official_verdict(facts: ProtocolFacts) -> Verdict:
    """Hold the facts of a run against the official protocol."""
    reasons = tuple(reason for check in _CHECKS if (reason := check.reason(facts)) is not None)
    remark = f"The policy's images were drawn by {facts.renderer}: {facts.fidelity}."
    return Verdict(
        official=not reasons, reasons=reasons, remarks=(remark,) if facts.fidelity else ()
    )


def departures(facts: ProtocolFacts) -> tuple[str, ...]:
    """In what the rules of a run differ from the benchmark's own, one sentence each.

    Rules are the simulator's revision, the budget, resets, what a policy is told and sees; not
    which chains are run, and on which assets.
    """
    reasons = (check.reason(facts) for check in _CHECKS if check.rule)
    return tuple(reason for reason in reasons if reason is not None)
