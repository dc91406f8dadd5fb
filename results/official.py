"""Whether a score may stand beside published ones, and if not, why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from calvin_eval.protocol import BENCHMARK, OFFICIAL, RULES, Protocol

AS_WRITTEN = "as written"
NOT_REPRODUCIBLE = (
    "The policy is not reproducible: asked twice for the same decisions, it gave others. Resuming, "
    "another number of workers and running again change the score."
)
_OF_THE_RUN = (
    "pack", "scene", "chain_list", "planned", "completed", "errors", "instructions", "renderer",
)  # fmt: skip
"""Facts that are no rules: which chains were run, on which assets, and what became of them."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What was run, as the verdict is judged by it.

    Attributes:
        protocol: the rules in effect.
        pack: fingerprint of the asset pack.
        scene: letter of the scene.
        chain_list: hash of the chain list.
        planned: chains the run was meant to have.
        completed: chains that ended by success or failure.
        errors: chains that ended by an error.
        instructions: hash of the instructions the policy was given.
        instruction_text: how the policy was given them: `as written`, or something else.
        renderer: name of the renderer that made the images, and its options where they are not
            the defaults; `none` if none did.
        fidelity: how near its images are to EGL's, as measured; empty for EGL itself.
        needs_images: whether the policy requires any image.
        image_sizes: sizes in pixels that differ from the benchmark's; empty if none do.
        privileged: whether the policy reads the simulator's own state.
        reproducible: whether the policy decides the same when it is asked again; None if unknown.
    """

    protocol: Protocol
    pack: str
    scene: str
    chain_list: str
    planned: int
    completed: int
    errors: int
    instructions: str
    instruction_text: str = AS_WRITTEN
    renderer: str
    fidelity: str = ""
    needs_images: bool
    image_sizes: str = ""
    privileged: bool
    reproducible: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One thing in which a run departs from the official one.

    Attributes:
        field: of `Protocol`, or another name for what differs.
        subject: what the sentence begins with.
        expected: the official value, in words.
        found: the value in use, in words.
    """

    field: str
    subject: str
    expected: str
    found: str

    @property
    def sentence(self) -> str:
        """The verdict's sentence; hashes are shortened."""
        found = shortened(self.found) or "nothing"
        return f"{self.subject}: expected {shortened(self.expected)}, found {found}."


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a result is official, and one sentence for each thing that makes it unofficial.

    Attributes:
        official: whether it follows the official protocol.
        reasons: why it is not official.
        remarks: sentences on what does not, and should be known.
    """

    official: bool
    reasons: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values; remarks only if there are any."""
        stated = {"official": self.official, "reasons": list(self.reasons)}
        return {**stated, "remarks": list(self.remarks)} if self.remarks else stated


def rule_departures(found: Protocol) -> Iterator[Departure]:
    """Field by field, in what a protocol differs from the official one.

    Fields that something else judges (`Rule.judged_by`) are passed over.
    """
    for name, rule in RULES.items():
        expected, value = _in_words(OFFICIAL, name), _in_words(found, name)
        if rule.subject and expected != value:
            yield Departure(field=name, subject=rule.subject, expected=expected, found=value)


def official_verdict(facts: RunFacts) -> Verdict:
    """Compare the facts of a run with the official protocol."""
    reasons = tuple(departure.sentence for departure in _departures(facts))
    return Verdict(official=not reasons, reasons=reasons, remarks=tuple(_remarks(facts)))


def _remarks(facts: RunFacts) -> Iterator[str]:
    """What should be known of a run, official or not."""
    if facts.fidelity:
        yield f"The policy's images were drawn by {facts.renderer}: {facts.fidelity}."
    if facts.reproducible is False:
        yield NOT_REPRODUCIBLE


def departures(facts: RunFacts) -> tuple[str, ...]:
    """In what the rules of a run differ from the benchmark's own, one sentence each.

    Rules are those of `Protocol`, and which sentences and images a policy gets; not which chains
    are run, and on which assets.
    """
    return tuple(d.sentence for d in _departures(facts) if d.field not in _OF_THE_RUN)


def _departures(facts: RunFacts) -> Iterator[Departure]:
    """What differs from the benchmark, in the order of the verdict's sentences."""
    rules = list(rule_departures(facts.protocol))
    images = "observations only", "the simulator's own state"
    yield from _compare("pack", "Fingerprint of the asset pack", BENCHMARK.pack, facts.pack)
    yield from (rule for rule in rules if rule.field == "revision")
    yield from _compare("scene", "Scene", BENCHMARK.scene, facts.scene)
    yield from _compare(
        "chain_list", "Hash of the chain list", BENCHMARK.chain_list, facts.chain_list
    )
    yield from _compare("planned", "Planned chains", BENCHMARK.chains, facts.planned)
    yield from _compare("completed", "Completed chains", BENCHMARK.chains, facts.completed)
    yield from _compare("errors", "Chains that ended by an error", 0, facts.errors)
    yield from _compare(
        "instructions", "Hash of the instructions", BENCHMARK.instructions, facts.instructions
    )
    yield from _compare("instruction_text", "Instructions", AS_WRITTEN, facts.instruction_text)
    yield from (rule for rule in rules if rule.field != "revision")
    yield from _compare(
        "image_sizes",
        "Size of the policy's images",
        BENCHMARK.images,
        facts.image_sizes or BENCHMARK.images,
    )
    yield from _compare(
        "renderer", "Renderer of the policy's images", _drawn_by(facts), facts.renderer
    )
    yield from _compare("privileged", "What the policy sees", images[0], images[facts.privileged])


def _compare(field: str, subject: str, expected: object, found: object) -> Iterator[Departure]:
    if expected != found:
        yield Departure(field=field, subject=subject, expected=str(expected), found=str(found))


def _drawn_by(facts: RunFacts) -> str:
    """The renderer that is expected: the one in use, if it draws the benchmark's images."""
    unseen = not facts.needs_images and facts.renderer == "none"
    if unseen or facts.renderer in BENCHMARK.renderers:
        return facts.renderer
    return " or ".join(BENCHMARK.renderers)


def _in_words(protocol: Protocol, name: str) -> str:
    text = RULES[name].text
    return str(getattr(protocol, name)) if text is None else text(protocol)


def shortened(value: str) -> str:
    """A SHA-256 by its first digits, as people read it; any other text as it is."""
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value
