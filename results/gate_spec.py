"""What a gate asks of a run, and what it answers.

A gate is a list of conditions of the form "quantity >= threshold". A condition holds if the
quantity's whole confidence interval lies at or above the threshold, it is broken if the whole
interval lies below, and else it is undecided. The interval's confidence is such that all
intervals together hold with the confidence that was asked for (Bonferroni), so neither a pass nor
a failure is wrong more often than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from calvin_eval.errors import UnknownNameError, UsageError

GateOutcome: TypeAlias = Literal["pass", "fail", "undecided"]
Undecided: TypeAlias = Literal["pass", "fail", "code"]
"""What an undecided gate counts as; `code` gives it a separate exit code."""

EXIT_CODES: Mapping[GateOutcome, int] = {"pass": 0, "fail": 1, "undecided": 4}
"""Of the commands that decide a gate."""

TOP = 5
"""The longest chain: no gate asks for more."""

_KEYS = ("min-avg-len", "max-drop", "min-task:TASK", "confidence")
_TASK = "min-task:"


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """The conditions.

    Attributes:
        min_avg_len: least average length; in (0, 5].
        max_drop: most that the average length may be below the baseline's; in [0, 5).
        min_task: least success rate per task; each in (0, 1].
        max_cause: greatest share of chains that fail by a cause; each in [0, 1). Decided for
            runs that are over and were diagnosed only.
        confidence: of all decisions together; in [0.5, 1).
    """

    min_avg_len: float | None = None
    max_drop: float | None = None
    min_task: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.95
    max_cause: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range, or no condition at all."""
        if self.min_avg_len is not None and not 0 < self.min_avg_len <= TOP:
            raise _outside("min-avg-len", f"above 0 and up to {TOP}", self.min_avg_len)
        if self.max_drop is not None and not 0 <= self.max_drop < TOP:
            raise _outside("max-drop", f"from 0 and below {TOP}", self.max_drop)
        for task, rate in self.min_task.items():
            if not 0 < rate <= 1:
                raise _outside(f"min-task {task}", "above 0 and up to 1", rate)
        for cause, share in self.max_cause.items():
            if not 0 <= share < 1:
                raise _outside(f"max-cause {cause}", "from 0 and below 1", share)
        if not 0.5 <= self.confidence < 1:
            raise _outside("confidence", "from 0.5 and below 1", self.confidence)
        if not self.conditions:
            raise UsageError(
                "expected a condition for the gate, found none. Give a least average length "
                "(min-avg-len), a most drop from a baseline (max-drop), a least success rate of "
                "a task (min-task) or a greatest share of a cause of failures (max-cause)."
            )

    @property
    def conditions(self) -> int:
        """How many there are."""
        single = (self.min_avg_len is not None) + (self.max_drop is not None)
        return single + len(self.min_task) + len(self.max_cause)

    @property
    def level(self) -> float:
        """Confidence of every single interval."""
        return 1 - (1 - self.confidence) / self.conditions

    def __str__(self) -> str:
        """What `parse_gate` reads."""
        parts = [("min-avg-len", self.min_avg_len), ("max-drop", self.max_drop)]
        parts += [(f"{_TASK}{task}", rate) for task, rate in self.min_task.items()]
        parts.append(("confidence", self.confidence))
        return ",".join(f"{key}={value!r}" for key, value in parts if value is not None)


def parse_gate(text: str) -> GateSpec:
    """Read `min-avg-len=3.5,max-drop=0.1,min-task:open_drawer=0.8,confidence=0.95`.

    Raises:
        UsageError: anything else.
    """
    single: dict[str, float] = {}
    tasks: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = (p.strip() for p in part.partition("="))
        target, name = (tasks, key[len(_TASK) :]) if key.startswith(_TASK) else (single, key)
        if not name or (target is single and key not in _KEYS):
            raise UnknownNameError("gate condition", key, _KEYS)
        if name in target:
            raise UsageError(f"expected {key} once in the gate, found it twice: {text}")
        target[name] = _number(key, value)
    return GateSpec(
        min_avg_len=single.get("min-avg-len"),
        max_drop=single.get("max-drop"),
        min_task=tasks,
        confidence=single.get("confidence", 0.95),
    )


def parse_tasks(texts: Sequence[str]) -> dict[str, float]:
    """Read `open_drawer=0.8` and the like; raises UsageError for anything else."""
    return _parse(texts, str.partition, "TASK=RATE, each task once", "min-task")


def parse_causes(texts: Sequence[str]) -> dict[str, float]:
    """Read `grasped and lost=0.1` and the like; raises UsageError for anything else."""
    return _parse(texts, str.rpartition, "CAUSE=SHARE, each cause once", "max-cause")


def _parse(
    texts: Sequence[str],
    split: Callable[[str, str], tuple[str, str, str]],
    expected: str,
    rule: str,
) -> dict[str, float]:
    """Numbers by name; `split` says at which of several equals signs."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = split(text, "=")
        if not name or name in found:
            raise UsageError(f"expected {expected}, found {text!r}")
        found[name] = _number(f"{rule} {name}", value)
    return found


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition and what became of it.

    Attributes:
        name: of the quantity.
        threshold: the least that it may be.
        estimate: what it is in the data; None without data.
        low, high: its confidence interval.
        level: confidence of the interval.
        used: how many data there were, of which kind: `812 chains`.
        method: how the interval was computed.
        outcome: pass, fail or undecided.
    """

    name: str
    threshold: float
    estimate: float | None
    low: float
    high: float
    level: float
    used: str
    method: str

    @property
    def outcome(self) -> GateOutcome:
        """Where the interval lies."""
        if self.low >= self.threshold:
            return "pass"
        return "fail" if self.high < self.threshold else "undecided"

    def __str__(self) -> str:
        """One sentence."""
        found = "nothing" if self.estimate is None else f"{self.estimate:.3f}"
        return (
            f"{self.name}: expected at least {self.threshold:g}, found {found}, "
            f"{100 * self.level:.4g} % interval {self.low:.3f} to {self.high:.3f} "
            f"({self.used}): {self.outcome}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "outcome": self.outcome}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a gate answers.

    Attributes:
        checks: every condition.
        confidence: of all of them together.
        sequential: whether the intervals hold at every moment, so that the run could stop.
        planned: chains the run was meant to have.
        used: chains that were looked at.
        remarks: what a reader should know.
    """

    checks: tuple[Check, ...]
    confidence: float
    sequential: bool
    planned: int
    used: int
    remarks: tuple[str, ...] = ()

    @property
    def outcome(self) -> GateOutcome:
        """Fail if a condition is broken, pass if all hold, else undecided."""
        outcomes = {check.outcome for check in self.checks}
        if "fail" in outcomes:
            return "fail"
        return "undecided" if "undecided" in outcomes else "pass"

    def exit_code(self, undecided: Undecided = "code") -> int:
        """Return 0 for pass, 1 for fail, 4 for undecided or what the undecided count as."""
        outcome = self.outcome
        if outcome == "undecided" and undecided != "code":
            outcome = undecided
        return EXIT_CODES[outcome]

    def __str__(self) -> str:
        """One line for a log."""
        checks = "; ".join(map(str, self.checks))
        return f"gate: {self.outcome} after {self.used} of {self.planned} chains. {checks}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "outcome": self.outcome,
            "confidence": self.confidence,
            "sequential": self.sequential,
            "planned": self.planned,
            "used": self.used,
            "checks": [check.to_json() for check in self.checks],
            "remarks": list(self.remarks),
        }


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"expected a number for {key}, found {text!r}; for example {key}=0.8")
    return value


def _outside(key: str, expected: str, found: float) -> UsageError:
    return UsageError(f"{key}: expected a number {expected}, found {found:g}")
