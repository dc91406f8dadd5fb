"""Provenance and timing of a run, as rows of a table."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from calvin_eval.results.metrics import Mean
from calvin_eval.results.report.text import NO_BREAK, duration, percent, ranges, span

_NOT_SHOWN = ("verdict",)  # it has a separate place in the report
_GENERAL = "run"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Some facts about a run: a title, and names with values."""

    title: str
    rows: tuple[tuple[str, str], ...]


def provenance_sections(header: Mapping[str, Any]) -> list[Section]:
    """Everything in a header, in its own order; what is in no section of it stands first."""
    general: list[tuple[str, str]] = []
    sections = []
    for name, value in header.items():
        if name in _NOT_SHOWN:
            continue
        if isinstance(value, Mapping):
            sections.append(Section(title=name, rows=tuple(_rows("", value))))
        else:
            general.append((name, _shown(name, value)))
    return [Section(title=_GENERAL, rows=tuple(general)), *sections]


def _rows(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", _shown(name, value)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value or "-"
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return ranges(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return shlex.join(value) if name == "argv" else ", ".join(value)
    if value is None or value in ([], {}):
        return "-"
    return json.dumps(value)


def lookup(tree: Any, *path: str) -> Any:
    """What stands at a path in nested JSON; None if nothing does."""
    for key in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the work: its name, share of the time 0..1, and where its bar begins."""

    name: str
    share: float
    start: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time went.

    Attributes:
        parts: the largest first.
        facts: names with values.
        advice: one line; empty if there is none.
    """

    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...]
    advice: str


def timing(profile: Any, per_step: Mean | None) -> Timing | None:
    """What a run's profile and journal say about time; None if they say nothing.

    Args:
        profile: the content of `profile.json`, None without; parts of another shape are passed
            over.
        per_step: seconds of wall time per environment step.
    """
    facts = []
    if _number(wall := lookup(profile, "wall_seconds")):
        facts.append(("Wall time", duration(wall)))
    if isinstance(workers := lookup(profile, "workers"), Mapping):
        facts.append(("Workers", str(len(workers))))
    if _number(speed := lookup(profile, "steps_per_second")):
        facts.append(("Environment steps per second, all workers", f"{speed:.0f}"))
    if per_step is not None:
        spread = span(per_step.interval, 1, 1000)
        mean = f"{1000 * per_step.value:.1f}{NO_BREAK}ms"
        facts.append(("Wall time per step of a chain", f"{mean} ({spread})"))
    facts += _real_time(profile)
    parts, start = [], 0.0
    shares = lookup(profile, "shares")
    for name, share in shares.items() if isinstance(shares, Mapping) else ():
        if _number(share) and 0 < share <= 1:
            parts.append(Part(name=name, share=share, start=start))
            start += share
    advice = lookup(profile, "advice")
    if not facts and not parts:
        return None
    return Timing(
        parts=tuple(parts), facts=tuple(facts), advice=advice if isinstance(advice, str) else ""
    )


def _real_time(profile: Any) -> list[tuple[str, str]]:
    """How long decisions took, where the world went on meanwhile."""
    numbers = [lookup(profile, "realtime", key) for key in ("decisions", "waited_steps")]
    counts = lookup(profile, "realtime", "latency_steps")
    if not all(map(_number, numbers)) or not isinstance(counts, Mapping):
        return []
    latency = ", ".join(f"{n} ({count})" for n, count in counts.items())
    names = ("Decisions", "Steps without an action of the policy")
    rows = [(name, f"{number:.0f}") for name, number in zip(names, numbers, strict=True)]
    return [*rows, ("Latency in steps (decisions)", latency or "-")]


def part_label(part: Part) -> str:
    """A part and its share, in words."""
    return f"{part.name} {percent(part.share)}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
