"""Where things are on the four tables, in metres in the world frame.

Measured on the official tables; the built-in pack keeps the same numbers. The table stands at the
origin, x points to its right, y to its back, z up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TABLE_TOP = 0.44
PLANK_TOP = 0.441
DRAWER_FLOOR = 0.3424
TABLE_FRONT = -0.18
BUTTON_Y = -0.12


@dataclass(frozen=True, kw_only=True)
class Table:
    """What differs between the scenes.

    Attributes:
        button: x of the button.
        switch: x of the lever.
        door: x of the sliding door's left edge when it stands at the right.
        door_range: how far the door slides to the left.
        drawer: x of the drawer's middle.
        opening: x of the cabinet's left and right inner wall.
        lengths: how long each block is; it is 0.04 across.
    """

    button: float
    switch: float
    door: float
    door_range: float
    drawer: float
    opening: tuple[float, float]
    lengths: Mapping[str, float]


SMALL, MIDDLE, BIG = 0.04, 0.056, 0.08

TABLES: Mapping[str, Table] = {
    "A": Table(
        button=-0.28, switch=0.30, door=-0.10, door_range=0.280, drawer=0.10,
        opening=(-0.36, 0.16),
        lengths={"block_pink": SMALL, "block_blue": BIG, "block_red": MIDDLE},
    ),
    "B": Table(
        button=0.28, switch=-0.32, door=0.088, door_range=0.304, drawer=0.18,
        opening=(-0.18, 0.34),
        lengths={"block_red": SMALL, "block_blue": BIG, "block_pink": MIDDLE},
    ),
    "C": Table(
        button=-0.12, switch=-0.32, door=0.06, door_range=0.240, drawer=0.10,
        opening=(-0.18, 0.34),
        lengths={"block_blue": SMALL, "block_red": BIG, "block_pink": MIDDLE},
    ),
    "D": Table(
        button=-0.12, switch=0.30, door=-0.10, door_range=0.280, drawer=0.18,
        opening=(-0.36, 0.16),
        lengths={"block_red": MIDDLE, "block_blue": SMALL, "block_pink": BIG},
    ),
}  # fmt: skip


def grip_point(table: Table, part: str, position: float) -> tuple[float, float, float]:
    """Where the tcp works a moving part of the table.

    Args:
        table: the scene's.
        part: the word behind `base__` in the name of its joint.
        position: of that joint, in metres.

    Raises:
        KeyError: there is no such part.
    """
    return {
        "slide": (table.door + 0.14 - position, -0.005, 0.545),
        "drawer": (table.drawer, -0.25 - position, 0.36),
        "button": (table.button, BUTTON_Y, 0.478),
        "switch": (table.switch, 0.02 + 0.5 * position, 0.527 + 0.866 * position),
    }[part]
