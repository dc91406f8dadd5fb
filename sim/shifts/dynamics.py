"""The axis `dynamics`: blocks of another friction, mass and size, another grip, a worse arm."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.actions import ParsedAction
from calvin_eval.sim.bullet import BulletClient
from calvin_eval.sim.shifts.variant import Variant

_HALF_HEIGHT: Final = 0.02
"""Metres from the centre of every block to the surface that it lies on."""


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """How a chain's world moves; ratios are to the benchmark's own.

    Attributes:
        friction: lateral, of the blocks, with whatever they touch.
        mass: of the blocks.
        size: of the blocks, all edges alike.
        grip: force of the fingers.
        shake: largest error of where the arm is sent, in metres.
        wobble: largest error of how the hand is turned, and of joints, in radians.
        delay: steps by which every action is executed late.
    """

    friction: float = 1.0
    mass: float = 1.0
    size: float = 1.0
    grip: float = 1.0
    shake: float = 0.0
    wobble: float = 0.0
    delay: int = 0

    @classmethod
    def of(cls, variant: Variant | None) -> Dynamics:
        """Those of a variant; the benchmark's own without the axis."""
        if variant is None or not variant.level("dynamics"):
            return BENCHMARK
        ratios = {
            name: 1 + float(variant.either_way("dynamics", name)[0])
            for name in ("friction", "mass", "size", "grip")
        }
        errors = {name: float(variant.one_way("dynamics", name)[0]) for name in ("shake", "wobble")}
        return cls(**ratios, **errors, delay=round(variant.span("dynamics", "delay")))

    def settle(self, scene_obs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The (24,) start state with blocks as high as their size has them lie."""
        raised = np.array(scene_obs)
        raised[8::6] += _HALF_HEIGHT * (self.size - 1)
        return raised

    def apply(self, bullet: BulletClient, blocks: Iterable[int]) -> None:
        """Give blocks that have been loaded their friction and mass."""
        if self == BENCHMARK:
            return
        for body in blocks:
            mass, friction = bullet.getDynamicsInfo(body, -1)[:2]
            bullet.changeDynamics(
                body, -1, mass=mass * self.mass, lateralFriction=friction * self.friction
            )


BENCHMARK: Final = Dynamics()
"""The benchmark's own."""


class Actuation:
    """What stands between an action and the arm: a delay, and errors that no action contains.

    Args:
        dynamics: of the chain.
        variant: of the chain, for the errors' generator.
    """

    def __init__(self, dynamics: Dynamics, variant: Variant) -> None:
        self._scale = np.array([dynamics.shake] * 3 + [dynamics.wobble] * 3)
        self._joint_scale = dynamics.wobble
        self._stream = variant.stream("dynamics", "errors")
        self._waiting: deque[ParsedAction] = deque()
        self._delay = dynamics.delay

    def delayed(self, action: ParsedAction, gripper: float) -> ParsedAction:
        """The action of so many steps ago; one that moves nothing where there was none.

        Args:
            action: the present one.
            gripper: the last command that was executed.
        """
        self._waiting.append(action)
        if len(self._waiting) > self._delay:
            return self._waiting.popleft()
        return ParsedAction(
            kind="cartesian_rel", gripper=gripper, position=np.zeros(3), orientation=np.zeros(3)
        )

    def forget(self) -> None:
        """Drop the actions that are under way, as when the arm is put back."""
        self._waiting.clear()

    def errors(self, joints: bool) -> NDArray[np.float64]:
        """This step's errors: (6,) metres and radians of the pose, or (7,) radians of joints."""
        drawn = self._stream.uniform(-1, 1, 7)
        found: Any = drawn * self._joint_scale if joints else drawn[:6] * self._scale
        error: NDArray[np.float64] = found
        return error
