"""How much of a chunk is executed."""

from __future__ import annotations

from dataclasses import dataclass

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.stages.base import Actions, ActionStage, Context
from calvin_eval.wrappers.stages.options import whole


@dataclass(frozen=True, kw_only=True)
class Execute(ActionStage):
    """Execute m actions of n and drop the rest; the policy then decides anew.

    Attributes:
        steps: m, how many actions are executed.
        start: index of the first.
    """

    steps: int
    start: int = 0

    def __post_init__(self) -> None:
        whole("steps of execute", self.steps, least=1)
        whole("start of execute", self.start, least=0)

    def __call__(self, actions: Actions, context: Context) -> Actions:
        """A chunk of `steps` actions, in whatever form they come."""
        end = self.start + self.steps
        found = len(actions) if hasattr(actions, "__len__") else type(actions).__name__
        if not isinstance(found, int) or found < end:
            raise PolicyError(
                f"execute: expected a chunk of {end} actions or more, found {found}: lower steps, "
                "or ask the policy for longer chunks."
            )
        return actions[self.start : end]
