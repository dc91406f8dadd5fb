"""Diagnoses made by hand: any causes for any chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calvin_eval.results.diagnosis import (
    CAUSES,
    Achieved,
    Attempt,
    Diagnosis,
    Failure,
    Habits,
    records_digest,
)
from calvin_eval.results.schema import ChainRecord
from calvin_eval.sim.symbolic import TASK_NAMES

HABITS = Habits(
    saturated=0.1, frozen=0.0, reversals=0.2, gripper_switches=3, joint_limit=0.0, table_hits=1,
    first_contact=12, path=1.5,
)  # fmt: skip


def made_failure(chain: int, cause: str, **changes: Any) -> Failure:
    values: dict[str, Any] = {
        "chain": chain, "position": 0, "task": "open_drawer", "instruction": "pull the drawer",
        "steps": 360, "cause": cause, "why": "it was seen", "obstacle": None,
        "target": ("base__drawer",), "touched": ("block_red",), "grasped": (), "closest": 0.1,
        "closest_step": 7, "progress_end": 0.25, "progress_best": 0.5, "best_step": 100,
        "curve": (0.0, 0.5, 0.25), "achieved": (), "habits": HABITS,
    }  # fmt: skip
    return Failure(**{**values, **changes})


def made_diagnosis(
    failures: Sequence[Failure], records: Sequence[ChainRecord] = (), lengths: Any = None
) -> Diagnosis:
    return Diagnosis(
        records_sha256=records_digest(records),
        instructions={"open_drawer": "pull the drawer", "turn_on_led": "make the LED glow"},
        lengths=lengths or {str(failure.chain): failure.position for failure in failures},
        most=5, failures=tuple(failures), side_effects=(), undiagnosed=(),
    )  # fmt: skip


def large_diagnosis(count: int) -> Diagnosis:
    """So many failures of all tasks and causes, with curves of their own."""
    rng = np.random.default_rng(0)
    failures = []
    for chain in range(count):
        task, other = (str(name) for name in rng.choice(TASK_NAMES, 2, replace=False))
        curve = np.clip(np.cumsum(rng.normal(0.01, 0.05, 30)), 0, 0.95).round(4)
        solved = Attempt(solved=bool(rng.random() < 0.7), steps=61, path=0.9)
        failures.append(made_failure(
            chain, str(rng.choice(CAUSES)), task=task, position=int(rng.integers(5)),
            instruction=f"do {task.replace('_', ' ')}", curve=tuple(curve.tolist()),
            progress_best=float(curve.max()), progress_end=float(curve[-1]),
            achieved=(Achieved(task=other, first=40, lasting=bool(rng.random() < 0.5)),),
            why="block_blue was held until step 112, then it slipped out of the closed hand",
            from_begin=solved, from_end=solved,
        ))  # fmt: skip
    return made_diagnosis(failures)
