"""Runs that nobody simulated: plausible records of a good policy, for tests of what reads them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.sim.chains import load_chains
from handmade import document_of

STEPS = 360

MakeRun = Callable[..., RunFolder]


def header(planned: int) -> dict[str, Any]:
    """What a complete official run of so many chains has in its header."""
    return document_of(
        config={"ckpt": "checkpoints/vla-base.pt", "split": "ABC_D"},
        policy={
            "description": "TorchScript file vla-base.pt: static and gripper camera, 10 actions",
            "ckpt": "checkpoints/vla-base.pt",
            "sha256": "4f" * 32,
        },
        chains={"planned": list(range(planned))},
        renderer={"vendor": "NVIDIA", "renderer": "H100", "version": "4.6"},
        provenance={
            "argv": ["calvin-eval", "--ckpt", "checkpoints/vla-base.pt", "--split", "ABC_D"]
        },
    )


PROFILE = {
    "wall_seconds": 4211.5,
    "steps": 348211,
    "steps_per_second": 82.68,
    "shares": {"render": 0.55, "inference": 0.2, "physics": 0.15, "waiting": 0.07, "judge": 0.03},
    "workers": {str(worker): {"render": 2316.3} for worker in range(8)},
    "advice": "render took 55 % of the workers' time: fewer cameras would help",
}


def play(chain: int, initial_state: Mapping[str, str | int], tasks: tuple[str, ...]) -> ChainRecord:
    """How a good policy fares: every task has its own difficulty, and so has every transition."""
    rng = np.random.default_rng([7, chain])
    subtasks: list[SubtaskRecord] = []
    before = ""
    for task in tasks:
        hard = zlib.crc32(task.encode()) % 1000 / 1000
        rate = 0.99 - 0.24 * hard**2.5 - 0.25 * (zlib.crc32(f"{before}>{task}".encode()) % 9 == 0)
        success = bool(rng.random() < rate)
        taken = int(np.clip(rng.lognormal(np.log(55 + 50 * hard), 0.35), 12, STEPS - 1))
        steps = taken if success else STEPS
        subtasks.append(
            SubtaskRecord(
                task=task,
                instruction=task.replace("_", " "),
                success=success,
                steps=steps,
                seconds=round(steps * float(rng.uniform(0.02, 0.03)), 4),
                state_hash="0" * 32,
            )
        )
        before = task
        if not success:
            break
    return ChainRecord(
        chain=chain,
        initial_state=initial_state,
        tasks=tasks,
        subtasks=tuple(subtasks),
        status="completed",
    )


def broken(record: ChainRecord, error: str) -> ChainRecord:
    """The same chain, had an exception ended it in its first task."""
    return ChainRecord(
        chain=record.chain,
        initial_state=record.initial_state,
        tasks=record.tasks,
        subtasks=(),
        status="error",
        error=error,
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run folder of the first chains of the official list.

    Its arguments: number of planned chains; ids that are missing; errors per id; what is to be
    changed in the header, per section.
    """

    def make(
        planned: int = 60,
        *,
        missing: tuple[int, ...] = (),
        errors: Mapping[int, str] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        folder = RunFolder.create(tmp_path / "run", {**header(planned), **(changes or {})})
        with folder.journal() as journal:
            for chain in load_chains("official").chains[:planned]:
                record = play(chain.id, chain.initial_state, chain.tasks)
                if chain.id in (errors or {}):
                    record = broken(record, (errors or {})[chain.id])
                if chain.id not in missing:
                    journal.append(record)
        folder.write_json("profile.json", PROFILE)
        return folder

    return make
