"""Runs made by hand: records of any length, and the folder of a run that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from calvin_eval.results.journal import encode_journal
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import JOURNAL, RunFolder, write_atomic

TASKS = ("a", "b", "c", "d", "e")
HEADER: Mapping[str, Any] = {
    "config": {
        "sim": {
            "backend": "calvin_eval", "assets": "official", "revision": "pinned",
            "deterministic": True,
        },
        "protocol": {
            "chains": "official", "num_chains": None, "select": None, "steps": 360,
            "budget": "env_steps", "instructions": "pack", "policy_reset": "subtask",
            "world_reset": "chain", "execute": None, "leftover": "drop",
        },
    },
    "policy": {
        "description": "TorchScript policy models/p.pt", "ckpt": "models/p.pt",
        "kind": "torchscript", "sha256": "9" * 64, "torch": "2.9",
    },
    "assets": {"name": "official", "fingerprint": "a" * 64},
    "scene": "D",
    "revision": "pinned",
    "chains": {"list": "official", "sha256": "c" * 64, "planned": []},
    "instructions": {"name": "pack", "sha256": "e" * 64},
    "renderer": {"backend": "egl", "vendor": "Mesa", "renderer": "llvmpipe", "version": "4.5"},
}  # fmt: skip
Change = Callable[[dict[str, Any]], object]


def record(
    chain: int, length: int, *, error: bool = False, steps: int = 9, tasks: Sequence[str] = TASKS
) -> ChainRecord:
    tried = tasks[: length if error else length + 1]
    subtasks = tuple(
        SubtaskRecord(
            task=task, instruction=f"do {task}", success=place < length, steps=steps + place,
            seconds=0.1, state_hash=f"{chain}-{place}-{steps}",
        )
        for place, task in enumerate(tried)
    )  # fmt: skip
    return ChainRecord(
        chain=chain, initial_state={"led": 0}, tasks=tuple(tasks), subtasks=subtasks,
        status="error" if error else "completed", error="broke" if error else None,
    )  # fmt: skip


def write_run(
    path: Path,
    records: Sequence[ChainRecord],
    *,
    planned: Sequence[int] | None = None,
    change: Change = lambda header: None,
) -> Path:
    header = deepcopy(dict(HEADER))
    header["chains"]["planned"] = [r.chain for r in records] if planned is None else list(planned)
    change(header)
    folder = RunFolder.create(path, header)
    write_atomic(folder.path / JOURNAL, encode_journal(records))
    return path
