"""What a stage is: one job between a benchmark's request and a network, or back.

A pipeline has two lists of stages. Observation stages turn what the simulator shows into what a
network expects; action stages turn what it returns into CALVIN's actions. A stage is a frozen
dataclass whose fields are its options, so that a configuration can name it, check it and print it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from numpy.typing import NDArray

from calvin_eval.wrappers.policy import Request, Requirements

Observation: TypeAlias = "Mapping[str, Any]"
"""CALVIN's observation, or what earlier stages made of it: `rgb_obs`, `depth_obs`, `robot_obs`,
`scene_obs`, and whatever stages add, such as `state`."""

Actions: TypeAlias = "NDArray[Any] | Sequence[Any]"
"""A chunk: an array (k, d), or after a stage that ends in absolute poses a list of k actions in a
form that `calvin_eval.sim` accepts."""


@dataclass(frozen=True)
class Context:
    """What a stage may look at besides its input.

    Attributes:
        request: the benchmark's request as it came, before any stage; `request.obs["robot_obs"]`
            (15,) float64 is the measured state at the decision. In `request.executed` an action's
            `raw` is what the network returned for it.
        memory: this stage's own memory of this session; empty after a reset.
    """

    request: Request
    memory: dict[str, Any] = field(default_factory=dict)


class ObservationStage(ABC):
    """From frames to frames: oldest first, the present one last."""

    @property
    def every_frame(self) -> bool:
        """Whether it must see the frames between two decisions; a stage may make it an option."""
        return False

    def instruction(self, text: str) -> str:
        """The instruction as the network is to read it."""
        return text

    def requires(self, needs: Requirements) -> Requirements:
        """What the engine must show so that this stage can serve a policy that needs `needs`."""
        return replace(needs, every_step=needs.every_step or self.every_frame)

    @abstractmethod
    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """Transform the frames since the last decision; never changes its input in place."""


class ActionStage(ABC):
    """From a chunk (k, d) to a chunk (k', d')."""

    @abstractmethod
    def __call__(self, actions: Actions, context: Context) -> Actions:
        """Transform a chunk; never changes its input in place."""
