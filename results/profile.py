"""Where a run's time went, and one line of advice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MUCH = 0.5  # share of the workers' time that is worth an advice


@dataclass
class Profile:
    """Seconds per worker and part of the work; filled while a run goes on.

    Attributes:
        seconds: per worker the seconds of each part (`reset`, `physics`, `render`, `judge`,
            `inference`, and `waiting` for the policy beyond that).
        steps: environment steps of all workers.
        waits: per chain and subtask how many decisions were made and how many steps they left
            the robot without an action, where the world goes on while the policy thinks.
        latencies: steps that a decision took, and how many took so long.
    """

    seconds: dict[int, dict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    steps: int = 0
    waits: dict[int, list[dict[str, int]]] = field(default_factory=dict)
    latencies: Counter[int] = field(default_factory=Counter)

    def add(self, worker: int, parts: Mapping[str, float], inference: float) -> None:
        """Count a chain: its seconds per part, and the part of `policy` that was inference."""
        mine = self.seconds[worker]
        for part, seconds in parts.items():
            if part != "policy":
                mine[part] += seconds
        inference = min(inference, parts.get("policy", 0.0))
        mine["inference"] += inference
        mine["waiting"] += parts.get("policy", 0.0) - inference

    def wait(self, chain: int, subtasks: Sequence[tuple[Sequence[int], int]]) -> None:
        """Count a chain in real time.

        Args:
            chain: its id.
            subtasks: per subtask the latencies of its decisions, in steps, and the steps waited.
        """
        self.waits[chain] = [
            {"decisions": len(latencies), "waited_steps": waited} for latencies, waited in subtasks
        ]
        for latencies, _ in subtasks:
            self.latencies.update(latencies)

    def shares(self) -> dict[str, float]:
        """Share of all workers' busy time per part, 0..1, largest first; empty without any."""
        totals: dict[str, float] = defaultdict(float)
        for mine in self.seconds.values():
            for part, seconds in mine.items():
                totals[part] += seconds
        whole = sum(totals.values())
        if not whole:
            return {}
        return {p: s / whole for p, s in sorted(totals.items(), key=lambda item: -item[1])}

    def advice(self, renderer: str) -> str:
        """One line: what the time goes into, and what would help."""
        shares = self.shares()
        if not shares:
            return "nothing ran"
        part, share = next(iter(shares.items()))
        sentence = f"{part} took {100 * share:.0f} % of the workers' time"
        hints = {
            "render": _render_hint(renderer),
            "inference": "a larger --max-batch, more --devices or longer action chunks would help",
            "waiting": "the policy's process is the bottleneck: fewer workers would do as well",
            "physics": "more workers would help, if there are more cores",
        }
        return f"{sentence}: {hints[part]}" if share >= _MUCH and part in hints else sentence

    def to_json(self, wall: float, renderer: str) -> dict[str, Any]:
        """JSON form.

        Args:
            wall: seconds that the run took.
            renderer: who drew.
        """
        return {
            "wall_seconds": round(wall, 3),
            "steps": self.steps,
            "steps_per_second": round(self.steps / wall, 2) if wall else None,
            "shares": {part: round(share, 4) for part, share in self.shares().items()},
            "workers": {
                str(worker): {part: round(seconds, 3) for part, seconds in mine.items()}
                for worker, mine in sorted(self.seconds.items())
            },
            "advice": self.advice(renderer),
            **({"realtime": self._realtime()} if self.waits else {}),
        }

    def _realtime(self) -> dict[str, Any]:
        subtasks = [subtask for chain in self.waits.values() for subtask in chain]
        return {
            "decisions": sum(subtask["decisions"] for subtask in subtasks),
            "waited_steps": sum(subtask["waited_steps"] for subtask in subtasks),
            "latency_steps": {str(n): count for n, count in sorted(self.latencies.items())},
            "chains": {str(chain): subtasks for chain, subtasks in sorted(self.waits.items())},
        }


def _render_hint(renderer: str) -> str:
    if renderer == "tiny":
        return "EGL may be faster, and its images are the benchmark's own; or draw fewer frames"
    if renderer == "egl":
        return "--render fast draws EGL's images in a tenth of the time; or draw fewer frames"
    return "more workers, longer action chunks or fewer cameras would help"
