"""The instruction as a network wants to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.stages.base import Context, Observation, ObservationStage
from calvin_eval.wrappers.stages.options import flag

PLACE = "{instruction}"


@dataclass(frozen=True, kw_only=True)
class Instruction(ObservationStage):
    """Rewrite the instruction, in the order of the options below.

    Attributes:
        strip: whether space at both ends goes.
        lower: whether all letters become small.
        capitalize: whether the first letter becomes a capital; the others stay.
        suffix: put at the end of an instruction that does not end in it, for example ".".
        template: a text around `{instruction}`; braces mean nothing else.
    """

    strip: bool = False
    lower: bool = False
    capitalize: bool = False
    suffix: str = ""
    template: str = PLACE

    def __post_init__(self) -> None:
        for name in ("strip", "lower", "capitalize"):
            flag(f"{name} of instruction", getattr(self, name))
        if PLACE not in self.template:
            raise UsageError(
                f"instruction: expected {PLACE} in the template, found {self.template!r}"
            )

    def instruction(self, text: str) -> str:
        """The rewritten instruction."""
        text = text.strip() if self.strip else text
        text = text.lower() if self.lower else text
        text = text[:1].upper() + text[1:] if self.capitalize else text
        text = text if text.endswith(self.suffix) else text + self.suffix
        return self.template.replace(PLACE, text)

    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """The frames as they are."""
        return frames
