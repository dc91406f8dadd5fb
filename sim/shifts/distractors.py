"""The axis `distractors`: things on the table that no instruction speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.bullet import BulletClient, pybullet
from calvin_eval.sim.shifts.variant import Variant

_TRIES: Final = 1000
_TABLE: Final = ((-0.4, 0.4), (-0.15, -0.06))
"""Where they stand, in metres along x and y: on the table, before the cabinet."""
_TOP: Final = 0.44  # metres: the table's surface
_FROM_BLOCK: Final = 0.085
_FROM_EACH_OTHER: Final = 0.075
_FROM_BUTTON: Final = 0.085
_MASS: Final = 0.3  # kg
_COLOURS: Final = (
    (0.1, 0.6, 0.2), (0.95, 0.8, 0.1), (0.1, 0.75, 0.75), (0.95, 0.5, 0.1), (0.45, 0.3, 0.15),
    (0.9, 0.9, 0.9), (0.15, 0.15, 0.15), (0.6, 0.8, 0.3),
)  # fmt: skip
"""None that an instruction could mean: the blocks are red, blue and pink."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One distractor, standing on the table.

    Attributes:
        size: edges of a box in metres, or diameter (twice) and height of a cylinder.
        round: whether it is a cylinder.
        place: x and y of its centre in metres.
        yaw: radians.
        colour: 0..1.
    """

    size: tuple[float, float, float]
    round: bool
    place: tuple[float, float]
    yaw: float
    colour: tuple[float, float, float]

    @property
    def centre(self) -> tuple[float, float, float]:
        """Of mass, in the world, metres."""
        return (*self.place, _TOP + self.size[2] / 2)

    @property
    def quaternion(self) -> tuple[float, float, float, float]:
        """Its orientation, xyzw."""
        return 0.0, 0.0, sin(self.yaw / 2), cos(self.yaw / 2)


def can_be_touched(variant: Variant) -> bool:
    """Whether a variant's distractors are bodies of the simulator, and not only drawn."""
    return variant.span("distractors", "touchable") > 0


def stand(
    bullet: BulletClient, variant: Variant, blocks: NDArray[np.float64], button: float
) -> tuple[Thing, ...]:
    """The distractors of a variant, in the world if they can be touched; see `things`."""
    found = things(variant, blocks, button)
    if can_be_touched(variant):
        _put_on_table(bullet, found)
    return found


def things(variant: Variant, blocks: NDArray[np.float64], button: float) -> tuple[Thing, ...]:
    """The distractors of a variant; fewer where the table has no room for all.

    Args:
        variant: of the chain.
        blocks: (B, 2) metres, where the blocks start.
        button: its x in metres.
    """
    stream = variant.stream("distractors", "places")
    found: list[Thing] = []
    for _ in range(_TRIES):
        if len(found) == round(variant.span("distractors", "count")):
            break
        thing = _draw(stream)
        if _fits(thing, found, blocks, button):
            found.append(thing)
    return tuple(found)


def _draw(stream: np.random.RandomState) -> Thing:
    numbers = stream.uniform(size=7).tolist()
    (left, right), (front, back) = _TABLE
    wide, deep, high = (0.02 + 0.02 * numbers[0], 0.02 + 0.02 * numbers[1], 0.03 * (1 + numbers[2]))
    is_round = numbers[3] < 0.5
    return Thing(
        size=(wide, wide if is_round else deep, high),
        round=is_round,
        place=(left + (right - left) * numbers[4], front + (back - front) * numbers[5]),
        yaw=0.0 if is_round else np.pi * numbers[6],
        colour=_COLOURS[stream.randint(len(_COLOURS))],
    )


def _fits(
    thing: Thing, others: Sequence[Thing], blocks: NDArray[np.float64], button: float
) -> bool:
    x, y = thing.place
    return (
        all(hypot(x - bx, y - by) > _FROM_BLOCK for bx, by in blocks.tolist())
        and all(hypot(x - o.place[0], y - o.place[1]) > _FROM_EACH_OTHER for o in others)
        and hypot(x - button, y + 0.12) > _FROM_BUTTON
    )


def _put_on_table(bullet: BulletClient, standing: Sequence[Thing]) -> None:
    """Make bodies of them, which roll and fall as they are touched."""
    for thing in standing:
        wide, deep, high = thing.size
        colour = [*thing.colour, 1.0]
        if thing.round:
            kind = pybullet.GEOM_CYLINDER
            shape = bullet.createCollisionShape(kind, radius=wide / 2, height=high)
            seen = bullet.createVisualShape(kind, radius=wide / 2, length=high, rgbaColor=colour)
        else:
            half = [wide / 2, deep / 2, high / 2]
            shape = bullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half)
            seen = bullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=half, rgbaColor=colour)
        bullet.createMultiBody(
            _MASS, shape, seen, basePosition=thing.centre, baseOrientation=thing.quaternion
        )
