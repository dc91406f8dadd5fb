"""One of everything that a package can add to calvin-eval; pyproject.toml beside it names them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval import (
    ActionStage,
    BasePolicy,
    Context,
    LoadedPolicy,
    Request,
    Requirements,
    Source,
)


class WavePolicy(BasePolicy):
    """`--ckpt plugin:wave`: raises and lowers the arm.

    Args:
        height: of the wave, as a share of the largest motion in a step.
    """

    def __init__(self, height: float = 0.5) -> None:
        self.requirements = Requirements()
        self.height = height

    def act(self, requests: Sequence[Request]) -> list[NDArray[np.float64]]:
        """One relative action (1, 7) for every request."""
        return [self._decide(request.step)[None] for request in requests]

    def _decide(self, step: int) -> NDArray[np.float64]:
        return np.array([0, 0, self.height * math.sin(step / 5), 0, 0, 0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Slower(ActionStage):
    """`+policy.actions.slower.factor=0.5`: scales the motion, and leaves the gripper alone."""

    factor: float = 0.5

    def __call__(self, actions: NDArray[Any], context: Context) -> NDArray[Any]:
        """Actions (k, 7) with scaled positions and rotations."""
        scale = np.array([self.factor] * 6 + [1.0])
        return np.asarray(actions * scale)


class _Waves:
    """What the loader of files and the client of servers have in common."""

    @staticmethod
    def declare(source: Source) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """No observation stage, and one action stage."""
        return {}, {"slower": {"factor": 0.9}}

    @classmethod
    def made(cls, source: Source, height: float, kind: str) -> LoadedPolicy:
        """The policy with what the run's header says of it."""
        return LoadedPolicy(
            policy=WavePolicy(height),
            kind=kind,
            description=f"wave of height {height:g}, no camera -> 1 action",
            metadata=source.metadata(kind, height=height),
            actions={"slower": {"factor": 0.9}},
        )


class WaveFiles(_Waves):
    """`--ckpt some.wave`: a JSON file with the height."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the name ends in `.wave`."""
        return path.suffix == ".wave"

    @classmethod
    def load(cls, source: Source) -> LoadedPolicy:
        """Read the file."""
        height = float(json.loads(source.path.read_text(encoding="utf-8"))["height"])
        return cls.made(source, height, "wave_file")


class WaveServer(_Waves):
    """`--ckpt wave://0.3`: a client would connect to the address; this one reads it."""

    @classmethod
    def load(cls, source: Source) -> LoadedPolicy:
        """Take the address for the height."""
        return cls.made(source, float(source.ckpt.partition("://")[2]), "wave_server")


class GreyRenderer:
    """`--render grey`: images as they are in thick fog.

    Args:
        world: the simulator's world, whose bodies another renderer would draw.
    """

    def __init__(self, world: Any) -> None:
        self.world = world

    def draw(self, cameras: Sequence[Any]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Per camera colour (H, W, 3) and depth (H, W) in metres."""
        sizes = [(camera.spec.height, camera.spec.width) for camera in cameras]
        return [(np.full((*size, 3), 128, np.uint8), np.ones(size, np.float32)) for size in sizes]
