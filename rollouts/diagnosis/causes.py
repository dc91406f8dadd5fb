"""The rules by which a failure gets its cause, the first that holds: docs/diagnose.md#causes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.results.diagnosis import CAUSES, Cause
from calvin_eval.rollouts.diagnosis.watching import TABLE, Trace
from calvin_eval.sim.judging import MAX_MOVE_WHILE_ROTATING

STILL: Final = 0.02
"""Metres within which a hand that never leaves them has never moved."""
APPROACH: Final = 0.08
"""Metres between hand and target within which it was approached."""
MOVED: Final = 0.01
"""Metres by which something was moved; a button, by half of that."""
WRONG_WAY: Final = 0.1
"""Of the asked way: so much in the other direction is the wrong way."""
HALF: Final = 0.5
"""Of the asked turn or push: less, without a grasp, is none."""
PRESSED: Final = 0.02
"""Metres of commands against the end of a joint that count as the wrong way."""
NEARLY: Final = 0.8
"""Progress above which it was nearly there."""
LATE: Final = 0.25
"""The last part of the steps, as a share, in which progress counts as still going on."""
GAIN: Final = 0.02
"""By so much, at least, progress must have grown in them."""

_GRASPED_ONLY = ("lift_object", "place_object", "stack_objects")
_CARRIED = ("place_object", "push_object_into", "stack_objects")


def find_cause(trace: Trace) -> tuple[Cause, str]:
    """The cause of a failure, and what was seen in a sentence."""
    seen = Seen.of(trace)
    for cause in CAUSES:
        why = _RULES[cause](seen)
        if why is not None:
            return cause, why  # type: ignore[return-value]
    raise AssertionError("the last rule always holds")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the rules ask of a trace.

    Attributes:
        trace: the failure.
        touched: whether a target was touched.
        others: other objects that were touched, in order of time.
        engaged: those among them that were grasped or moved.
        moved: whether a target was.
        grasped: the target that was grasped last; None if none was.
        kept: whether a target is in the hand at the end.
        best, worst, end: of the measure.
    """

    trace: Trace
    touched: bool
    others: tuple[str, ...]
    engaged: tuple[str, ...]
    moved: bool
    grasped: str | None
    kept: bool
    best: float
    worst: float
    end: float

    @classmethod
    def of(cls, trace: Trace) -> Seen:
        """Look at all of them."""
        targets = trace.meter.objects
        order = dict.fromkeys(name for names in trace.touched for name in sorted(names))
        others = tuple(name for name in order if name not in targets and name != TABLE)
        grasps = {name: trace.grasps(name) for name in targets}
        last = max(((g[-1][1], name) for name, g in grasps.items() if g), default=None)
        return cls(
            trace=trace,
            touched=any(name in order for name in targets),
            others=others,
            engaged=tuple(n for n in others if _was_moved(trace, n) or trace.grasps(n)),
            moved=any(_was_moved(trace, name) for name in targets),
            grasped=None if last is None else last[1],
            kept=trace.held[-1] in targets,
            best=float(trace.measure.max()),
            worst=float(trace.measure.min()),
            end=float(trace.measure[-1]),
        )

    @property
    def kind(self) -> str:
        """The oracle's rule."""
        return self.trace.meter.kind

    @property
    def name(self) -> str:
        """The target, or what stands for several."""
        targets = self.trace.meter.objects
        return targets[0] if len(targets) == 1 else "a target"


Rule = Callable[[Seen], "str | None"]


def _was_moved(trace: Trace, name: str) -> bool:
    return trace.moved(name) >= (MOVED / 2 if name.endswith("button") else MOVED)


def _never_moved(seen: Seen) -> str | None:
    far = float(np.linalg.norm(seen.trace.positions - seen.trace.positions[0], axis=1).max())
    return f"the hand stayed within {100 * far:.1f} cm" if far < STILL else None


def _never_approached(seen: Seen) -> str | None:
    closest = float(seen.trace.distance.min())
    if seen.touched or seen.others or closest < APPROACH:
        return None
    return f"the hand came no nearer than {100 * closest:.0f} cm to {seen.name}"


def _wrong_object(seen: Seen) -> str | None:
    if seen.engaged and not seen.moved and seen.grasped is None:
        return f"it moved or grasped {', '.join(seen.engaged)}, and not {seen.name}"
    if seen.others and not seen.touched:
        return f"it touched {', '.join(seen.others)}, and not {seen.name}"
    return None


def _did_not_grasp(seen: Seen) -> str | None:
    if seen.grasped is not None or _pushed_wrong_way(seen):
        return None
    reach = max(seen.best, -seen.worst)
    limit = HALF if seen.kind == "rotate_object" else WRONG_WAY
    if seen.kind not in _GRASPED_ONLY and (
        reach >= limit or (seen.moved and seen.kind != "rotate_object")
    ):
        return None
    return (
        f"it {'touched' if seen.touched else 'came near'} {seen.name} and did not take hold of it"
    )


def _lost(seen: Seen) -> str | None:
    if seen.grasped is None or seen.kept:
        return None
    _, last = seen.trace.grasps(seen.grasped)[-1]
    opened = seen.trace.command[min(last + 1, seen.trace.steps)] > 0
    if opened and seen.kind != "lift_object":
        return None  # put down, which most tasks want
    how = "the hand opened" if opened else "it slipped out of the closed hand"
    return f"{seen.grasped} was held until step {last}, then {how}"


def _wrong_way(seen: Seen) -> str | None:
    trace = seen.trace
    if _pushed_wrong_way(seen):
        return f"{seen.name} was moved, or pushed, the opposite way"
    if seen.kind in _CARRIED:
        return None if seen.kept or not seen.moved else f"{seen.name} was left in another place"
    aside = max(trace.moved(name) for name in trace.meter.objects)
    elsewhere = {"rotate_object": MAX_MOVE_WHILE_ROTATING, "push_object": MAX_MOVE_WHILE_ROTATING}
    if seen.kind in elsewhere and aside > elsewhere[seen.kind] and seen.best < HALF:
        return f"{seen.name} was moved by {100 * aside:.0f} cm, and not as was asked"
    return None


def _pushed_wrong_way(seen: Seen) -> bool:
    """Whether it went the wrong way, and further than the right one; or was pressed that way."""
    if not seen.trace.meter.direction:
        return False
    if -seen.worst >= max(WRONG_WAY, seen.best):
        return True
    return seen.best < WRONG_WAY and _pressed_wrong_way(seen.trace)


def _pressed_wrong_way(trace: Trace) -> bool:
    """Whether the hand pressed a part that stands at its end against that end.

    A drawer that is open cannot be opened further; the commands say that it was tried.
    """
    (name, *_), sign = trace.meter.objects, trace.meter.direction
    if name not in _WAYS:
        return False
    touched = np.array([name in names for names in trace.touched[1:]])
    pressed = np.cumsum(sign * (trace.commanded @ _WAYS[name]) * touched)
    return bool(-pressed.min() >= max(PRESSED, pressed.max())) if len(pressed) else False


def _nearly(seen: Seen) -> str | None:
    end = float(seen.trace.progress[-1])
    return f"it ended at {100 * end:.0f} % of the way" if end > NEARLY else None


def _undone(seen: Seen) -> str | None:
    best, end = float(seen.trace.progress.max()), float(seen.trace.progress[-1])
    if best <= NEARLY:
        return None
    return f"it had come to {100 * best:.0f} % of the way, and ended at {100 * end:.0f} %"


def _out_of_steps(seen: Seen) -> str | None:
    course = seen.trace.progress
    late = len(course) - max(1, round(LATE * seen.trace.steps))
    before, after = float(course[:late].max(initial=0.0)), float(course[late:].max(initial=0.0))
    if after < before + GAIN:
        return None
    return f"progress went from {100 * before:.0f} to {100 * after:.0f} % in the last quarter"


def _stalled(seen: Seen) -> str:
    best = float(seen.trace.progress.max())
    return f"it had come to {100 * best:.0f} % of the way, and got no further"


_WAYS: Mapping[str, NDArray[Any]] = {
    "base__slide": np.array([-1.0, 0.0, 0.0]),
    "base__drawer": np.array([0.0, -1.0, 0.0]),
    "base__switch": np.array([0.0, 0.5, 0.866]),
}
"""Along which a joint's position grows, on every table: docs/simulator.md."""

_RULES: Mapping[str, Rule] = dict(
    zip(
        CAUSES,
        (
            _never_moved, _never_approached, _wrong_object, _did_not_grasp, _lost, _wrong_way,
            _nearly, _undone, _out_of_steps, _stalled,
        ),
        strict=True,
    )
)  # fmt: skip
