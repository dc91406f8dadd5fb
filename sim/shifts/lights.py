"""The axis `light`: from elsewhere, brighter or darker, of another colour, with other shadows."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from calvin_eval.sim.drawing.light import POSITION, Lamp
from calvin_eval.sim.shifts.variant import Variant


def lamp_of(variant: Variant) -> Lamp:
    """What lights a chain's variant."""
    if not variant.level("light"):
        return Lamp()
    brighter = 1 + float(variant.either_way("light", "intensity")[0])
    tint = 1 + variant.either_way("light", "colour", 3)
    return Lamp(
        position=_turned(variant),
        colour=tuple((brighter * tint).tolist()),
        ambient=0.5 - float(variant.one_way("light", "ambient")[0]),
        shade=0.3 * (1 + float(variant.either_way("light", "shadow")[0])),
    )


def _turned(variant: Variant) -> tuple[float, float, float]:
    """Bullet's lamp, turned away from where it stands towards a direction of the compass."""
    lamp = np.array(POSITION)
    distance = float(np.linalg.norm(lamp))
    angle = float(variant.one_way("light", "direction")[0])
    towards = float(variant.stream("light", "compass").uniform(-np.pi, np.pi))
    level = np.array([cos(towards), sin(towards), 0.0])
    level -= lamp * (level @ lamp) / distance**2  # at right angles to the lamp
    level /= np.linalg.norm(level)
    x, y, z = (lamp * cos(angle) + level * distance * sin(angle)).tolist()
    return x, y, z
