"""Shifts of the benchmark: what can be changed about it, by how much, and how a run names it.

The table of axes is the only place that says what there is and how far each level goes;
`calvin_eval.sim.shifts` turns a level into one chain's variant. Every folder may import this
module. docs/shifts.md shows what the levels look like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from calvin_eval.errors import UnknownNameError, UsageError

Kind: TypeAlias = Literal["physical", "visual", "sensor", "language"]
Level: TypeAlias = int | str

LEVELS: Final = (1, 2, 3, 4, 5)
"""The graded levels of every axis, from the least to the most."""
_SEED: Final = "seed"


@dataclass(frozen=True, kw_only=True)
class Range:
    """How far one quantity goes, level by level.

    Attributes:
        unit: of the numbers; "" for a ratio.
        spans: per level from 1 to 5. A chain's own value is drawn between half of the level's
            number and the whole of it, in either direction where there are two.
        about: what the quantity is.
    """

    unit: str
    spans: tuple[float, float, float, float, float]
    about: str

    def at(self, level: Level) -> float:
        """The number of a graded level."""
        return self.spans[LEVELS.index(int(level))]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way in which the benchmark is changed.

    Attributes:
        kind: "physical" changes what the simulator computes, "visual" what is drawn, "sensor"
            what becomes of the drawn image, "language" the instruction.
        about: one sentence for the docs.
        ranges: by quantity, how far the levels go.
        probes: names of levels beside the graded ones.
        touched: levels that change what the simulator computes, though the axis is not physical.
    """

    kind: Kind
    about: str
    ranges: Mapping[str, Range]
    probes: tuple[str, ...] = ()
    touched: tuple[Level, ...] = ()

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels that there are."""
        return (*LEVELS, *self.probes)

    def is_physical(self, level: Level) -> bool:
        """Whether a level changes what the simulator computes."""
        return self.kind == "physical" or level in self.touched


AXES: Final[Mapping[str, Axis]] = MappingProxyType(
    {
        "start": Axis(
            kind="physical",
            about="The arm starts in another pose: every joint is turned, the hand stays above "
            "the table.",
            ranges={
                "joint": Range(
                    unit="rad", spans=(0.03, 0.06, 0.1, 0.15, 0.2), about="turn of each arm joint"
                ),
            },
        ),
        "layout": Axis(
            kind="physical",
            about="Blocks lie elsewhere on the surfaces that the chain has them on, and doors "
            "stand less far open or closed.",
            ranges={
                "table": Range(
                    unit="m", spans=(0.01, 0.02, 0.035, 0.05, 0.07),
                    about="shift of a block on the table, along each axis",
                ),
                "slot": Range(
                    unit="m", spans=(0.004, 0.008, 0.012, 0.016, 0.02),
                    about="shift of a block in the cabinet, sideways",
                ),
                "yaw": Range(
                    unit="deg", spans=(5, 10, 20, 30, 45), about="turn of a block"
                ),
                "slide": Range(
                    unit="m", spans=(0.005, 0.01, 0.02, 0.03, 0.04),
                    about="how far the sliding door stands from its end",
                ),
                "drawer": Range(
                    unit="m", spans=(0.005, 0.01, 0.02, 0.03, 0.04),
                    about="how far the drawer stands from its end",
                ),
            },
        ),
        "dynamics": Axis(
            kind="physical",
            about="Blocks have another friction, mass and size, the fingers another force; the "
            "arm errs a little at every step, and executes actions late.",
            ranges={
                "friction": Range(
                    unit="", spans=(0.1, 0.2, 0.3, 0.4, 0.5),
                    about="change of the blocks' friction, by its own value",
                ),
                "mass": Range(
                    unit="", spans=(0.15, 0.3, 0.45, 0.6, 0.75),
                    about="change of the blocks' mass, by its own value",
                ),
                "size": Range(
                    unit="", spans=(0.02, 0.04, 0.07, 0.1, 0.13),
                    about="change of the blocks' size, by its own value",
                ),
                "grip": Range(
                    unit="", spans=(0.1, 0.2, 0.3, 0.4, 0.5),
                    about="change of the fingers' force, by its own value",
                ),
                "shake": Range(
                    unit="m", spans=(0.0005, 0.001, 0.0015, 0.002, 0.003),
                    about="largest error of where the arm is sent, each step anew",
                ),
                "wobble": Range(
                    unit="rad", spans=(0.004, 0.008, 0.012, 0.016, 0.024),
                    about="largest error of how the hand is turned, each step anew",
                ),
                "delay": Range(
                    unit="steps", spans=(0, 0, 1, 1, 2),
                    about="by which actions are executed late, as the number stands",
                ),
            },
        ),
        "camera": Axis(
            kind="visual",
            about="Both cameras stand elsewhere, are turned, and see more or less.",
            ranges={
                "static_place": Range(
                    unit="m", spans=(0.05, 0.1, 0.2, 0.35, 0.5),
                    about="shift of the static camera, 4.4 m from the table, along each axis",
                ),
                "static_aim": Range(
                    unit="m", spans=(0.005, 0.01, 0.02, 0.03, 0.05),
                    about="shift of the point that it looks at, along each axis",
                ),
                "gripper_place": Range(
                    unit="m", spans=(0.002, 0.004, 0.008, 0.012, 0.02),
                    about="shift of the gripper's camera, along each axis",
                ),
                "turn": Range(
                    unit="deg", spans=(1, 2, 4, 6, 9),
                    about="roll of the static camera; turn of the gripper's about each axis",
                ),
                "fov": Range(
                    unit="", spans=(0.03, 0.06, 0.1, 0.15, 0.2),
                    about="change of both fields of view, by their own value",
                ),
            },
        ),
        "light": Axis(
            kind="visual",
            about="The light comes from elsewhere, is brighter or darker, of another colour, and "
            "its shadows are deeper or fainter.",
            ranges={
                "direction": Range(
                    unit="deg", spans=(10, 20, 30, 40, 55),
                    about="turn of the light away from where it comes from, nearly overhead",
                ),
                "intensity": Range(
                    unit="", spans=(0.08, 0.16, 0.25, 0.35, 0.45),
                    about="change of its strength, by its own value",
                ),
                "colour": Range(
                    unit="", spans=(0.03, 0.06, 0.1, 0.15, 0.22),
                    about="change of each of red, green and blue, by its own value",
                ),
                "ambient": Range(
                    unit="", spans=(0.04, 0.08, 0.12, 0.18, 0.25),
                    about="what the share that comes from everywhere, 0.5, is less by",
                ),
                "shadow": Range(
                    unit="", spans=(0.2, 0.4, 0.6, 0.8, 1.0),
                    about="change of what a shadow takes away, by its own value",
                ),
            },
        ),
        "appearance": Axis(
            kind="visual",
            about="Table, floor and background have other colours and textures, which are "
            "generated, and the blocks another shade of their colour.",
            ranges={
                "table": Range(
                    unit="", spans=(0.15, 0.3, 0.5, 0.7, 0.9),
                    about="share of a generated texture in the table's own",
                ),
                "floor": Range(
                    unit="", spans=(0.15, 0.3, 0.5, 0.7, 0.9),
                    about="share of a generated texture in the floor's own",
                ),
                "background": Range(
                    unit="", spans=(0.1, 0.2, 0.3, 0.45, 0.6),
                    about="change of each of the background's red, green and blue",
                ),
                "block": Range(
                    unit="", spans=(0.04, 0.08, 0.13, 0.19, 0.25),
                    about="change of each of a block's red, green and blue",
                ),
            },
        ),
        "distractors": Axis(
            kind="visual",
            about="Things that no instruction speaks of stand on the table: seen only, to level 3, "
            "and to be touched from level 4 on.",
            ranges={
                "count": Range(
                    unit="", spans=(1, 2, 4, 5, 7),
                    about="how many there are, as the number stands, where the table has room",
                ),
                "touchable": Range(
                    unit="", spans=(0, 0, 0, 1, 1),
                    about="whether they can be touched: then the shift is a physical one",
                ),
            },
            touched=(4, 5),
        ),
        "sensor": Axis(
            kind="sensor",
            about="Images are blurred, too bright or too dark, noisy and compressed; they come "
            "late, and some never, so that the one before is seen again.",
            ranges={
                "blur": Range(
                    unit="px", spans=(0.3, 0.5, 0.8, 1.1, 1.5),
                    about="radius of the blur, by a box, in an image of 200 rows",
                ),
                "exposure": Range(
                    unit="", spans=(0.06, 0.12, 0.2, 0.3, 0.4),
                    about="change of the exposure, by its own value",
                ),
                "noise": Range(
                    unit="of 255", spans=(2, 5, 9, 14, 20),
                    about="standard deviation of the noise in each colour",
                ),
                "compression": Range(
                    unit="of 100", spans=(15, 35, 55, 70, 82),
                    about="what JPEG's quality lacks",
                ),
                "dropped": Range(
                    unit="", spans=(0.02, 0.05, 0.1, 0.2, 0.35),
                    about="share of the frames that never come",
                ),
                "delay": Range(
                    unit="steps", spans=(0, 0, 1, 1, 2),
                    about="by which images are late, as the number stands",
                ),
            },
        ),
        "language": Axis(
            kind="language",
            about="The instruction is worded otherwise; or it is empty, its words are shuffled, "
            "it is nonsense, or it is that of another task.",
            ranges={},
            probes=("empty", "shuffled", "nonsense", "another"),
        ),
    }
)  # fmt: skip
"""Every axis by its name, in the order in which texts name them."""


@dataclass(frozen=True)
class Shifts:
    """The shifts of a run: one level for each of some axes, and the seed of what is drawn.

    Attributes:
        levels: by axis, in the order of `AXES`; none for the benchmark as it is.
        seed: of the variants. Two seeds give two variants of every chain at the same level.
    """

    levels: tuple[tuple[str, Level], ...] = ()
    seed: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Shifts:
        """Read shifts as the configuration and headers have them.

        Args:
            text: such as "camera=3,light=2", with ",seed=7" for another seed than 0; None and
                "" for the benchmark as it is.

        Raises:
            UsageError: no such axis or level, an axis named twice, or a seed alone.
        """
        found: dict[str, Level] = {}
        for part in (text or "").split(","):
            name, sign, value = (word.strip() for word in part.partition("="))
            if not part.strip():
                continue
            if not sign or not value:
                raise UsageError(f"expected a shift such as camera=3, found {part.strip()!r}")
            if name in found:
                raise UsageError(f"expected one level of the axis {name}, found two in {text!r}")
            found[name] = _level(name, value)
        seed = found.pop(_SEED, 0)
        if not found and _SEED in (text or ""):
            raise UsageError(f"expected an axis beside the seed of shifts, found {text!r}")
        assert isinstance(seed, int)
        return cls(tuple((name, found[name]) for name in AXES if name in found), seed)

    @classmethod
    def join(cls, texts: Iterable[str]) -> Shifts:
        """Several texts as one: `--shift camera=3 --shift light=2`."""
        return cls.parse(",".join(texts))

    def __str__(self) -> str:
        """What `parse` reads; "" for the benchmark as it is."""
        parts = [f"{name}={level}" for name, level in self.levels]
        if parts and self.seed:
            parts.append(f"{_SEED}={self.seed}")
        return ",".join(parts)

    def __bool__(self) -> bool:
        """Whether anything is shifted."""
        return bool(self.levels)

    def level(self, axis: str) -> Level | None:
        """The level of an axis; None if it is not shifted."""
        return dict(self.levels).get(axis)

    def of_kind(self, *kinds: Kind) -> Shifts:
        """The same with the axes of some kinds alone."""
        kept = tuple((name, level) for name, level in self.levels if AXES[name].kind in kinds)
        return Shifts(kept, self.seed)


NO_SHIFTS: Final = Shifts()
"""The benchmark as it is."""


def _level(name: str, value: str) -> Level:
    if name == _SEED:
        if not value.isdecimal():
            raise UsageError(f"expected the seed of shifts to be a number from 0 up, found {value}")
        return int(value)
    if name not in AXES:
        raise UnknownNameError("axis of shifts", name, [*AXES, _SEED])
    level: Level = int(value) if value.isdecimal() else value
    if level not in AXES[name].levels:
        allowed = ", ".join(map(str, AXES[name].levels))
        raise UsageError(f"expected {name} to have one of the levels {allowed}; found {value}")
    return level
