"""Runs made by hand: records of any length, and the folder of a run that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from calvin_eval.files import write_atomic
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import JOURNAL, RunFolder

TASKS = ("a", "b", "c", "d", "e")
HEADER: Mapping[str, Any] = {
    "config": {
        "ckpt": "models/p.pt", "split": "D", "shard": None, "seed": 0,
        "sim": {
            "backend": "calvin_eval", "assets": "official", "verify": True, "revision": "pinned",
            "render": "egl", "draw": {}, "deterministic": True,
        },
        "protocol": {
            "chains": "official", "layout": "scene", "num_chains": None, "select": None,
            "steps": 360, "budget": "env_steps", "instructions": "pack",
            "policy_reset": "subtask", "world_reset": "chain", "execute": None, "leftover": "drop",
            "realtime": None,
        },
        "policy": {"preset": None},
    },
    "engine": {"name": "local", "workers": 8, "devices": ["cuda:0", "cuda:1"]},
    "policy": {
        "description": "TorchScript policy models/p.pt", "ckpt": "models/p.pt",
        "kind": "torchscript", "sha256": "9" * 64, "torch": "2.9",
        "requirements": {
            "rgb": ["static", "gripper"], "depth": [], "sizes": {}, "every_step": False,
            "privileged": False,
        },
    },
    "assets": {"name": "official", "fingerprint": BENCHMARK.pack},
    "scene": "D",
    "revision": "pinned",
    "chains": {"list": "official", "sha256": BENCHMARK.chain_list, "planned": []},
    "instructions": {"name": "pack", "sha256": BENCHMARK.instructions},
    "renderer": {
        "backend": "egl", "requested": "egl", "vendor": "Mesa", "renderer": "llvmpipe",
        "version": "4.5",
    },
    "provenance": {
        "time_utc": "2026-11-23T09:00:00+00:00",
        "argv": ["calvin-eval", "--ckpt", "models/p.pt", "--split", "D"],
        "calvin_eval": "0.1.0",
        "git": {"revision": "0784e0e" + 33 * "0", "dirty": False},
        "python": "3.11.7",
        "implementation": "CPython",
        "platform": "Linux-6.1-x86_64-with-glibc2.36",
        "machine": "x86_64",
        "cpus": 2,
        "packages": {"numpy": "2.4.6", "pybullet": "3.2.7", "torch": "2.13.0"},
    },
    "started_utc": "2026-11-23T09:00:00+00:00",
}  # fmt: skip
"""What the header of an official run says, but for the chains."""

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


def document_of(**sections: Any) -> dict[str, Any]:
    """`HEADER` as a file has it, with these keys put into its sections, or entries replaced."""
    document = deepcopy({"schema_version": 1, "status": "started", **HEADER})
    for name, value in sections.items():
        merge = isinstance(value, dict) and isinstance(document.get(name), dict)
        document[name] = {**document[name], **value} if merge else value
    return document


def follow_head(header: dict[str, Any]) -> None:
    """A change: the run was made by the other revision."""
    header["revision"] = header["config"]["sim"]["revision"] = "head"


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
