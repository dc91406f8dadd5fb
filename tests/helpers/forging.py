"""Forged runs: edits of a run folder by a careful forger, who makes all that follows from them.

The kinds are those that attacks on this project have tried. A run to forge is `honest_run`'s: two
official chains of one failure each under the random policy, and `pressed_run`'s: two chains of a
file with two successes and a failure each.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from policy_texts import PRESS

from calvin_eval.cli.main import main
from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.bundle import write_bundle
from calvin_eval.results.conclude import conclude
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.model_card import parse_model_card
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.sim.chains import load_chains

STEPS = 20
TASKS = ["turn_on_led", "turn_off_led", "open_drawer"]
CARD = {
    "name": "Press",
    "training_split": "D",
    "parameters": 7_000_000,
    "observation_space": ["nothing"],
    "action_space": "absolute tcp pose",
    "licence": "Apache-2.0",
    "links": {"code": "https://example.org/code"},
}

Data = list[dict[str, Any]]
Forge = Callable[[RunFolder], object]


def run_policy(out: Path, ckpt: str, *arguments: str) -> Path:
    command = ["--ckpt", ckpt, "--split", "D", f"protocol.steps={STEPS}", "--workers", "0"]
    assert main([*command, *arguments, "--quiet", "--out", str(out)]) == 0
    return out


def pressed_run(root: Path) -> Path:
    """Two chains of a list in a file, of which the policy does two tasks of three."""
    (root / "press.py").write_text(PRESS, encoding="utf-8")
    states = [dict(c.initial_state) for c in load_chains("official") if not c.initial_state["led"]]
    (root / "list.json").write_text(json.dumps([[s, TASKS] for s in states[:2]]), encoding="utf-8")
    return run_policy(
        root / "press", f"{root / 'press.py'}:Press", f"protocol.chains={root / 'list.json'}"
    )


def chance_run(root: Path) -> Path:
    """Two official chains of which the random policy does nothing."""
    return run_policy(root / "random", "builtin:random", "--num-chains", "2")


def bundled(folder: Path, target: Path, **changes: Any) -> Path:
    """The bundle of an honest run, with a card of these entries."""
    card = parse_model_card({**CARD, **changes}, "card")
    return write_bundle(RunFolder.open(folder), card, target, overwrite=True).path


def forged_bundle(folder: Path, target: Path, **changes: Any) -> Path:
    """A bundle as a forger packs it: the manifest fits, and nothing else is looked at."""
    names = ["header.json", "chains.jsonl", "summary.json", "results.json", "diagnosis.json"]
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    files |= {f"actions/{p.name}": p.read_bytes() for p in sorted(folder.glob("actions/*.npz"))}
    files["meta.json"] = json.dumps({**CARD, **changes}).encode()
    listed = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
    }
    manifest = {"bundle_version": 1, "schema_version": 1, "files": listed}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, data)
    return target


def edit_records(folder: RunFolder, edit: Callable[[Data], object]) -> None:
    """Change records and everything that follows from them."""
    data = [record.to_json() for record in folder.records()]
    edit(data)
    records = [ChainRecord.from_json(entry) for entry in data]
    (folder.path / "chains.jsonl").write_bytes(encode_journal(records))
    (folder.path / "results.json").unlink(missing_ok=True)
    conclude(folder)


def write_header(folder: RunFolder, changes: dict[str, Any]) -> None:
    """Put values into the header by their paths, and nothing that follows from them."""
    header = folder.document()
    for path, value in changes.items():
        *sections, key = path.split(".")
        inner = header
        for section in sections:
            inner = inner[section]
        inner[key] = value
    folder.update_header(**{k: v for k, v in header.items() if k != "schema_version"})


def edit_header(folder: RunFolder, changes: dict[str, Any]) -> None:
    """Put values into the header by their paths, and everything that follows from them."""
    write_header(folder, changes)
    with contextlib.suppress(RunFolderError):  # what it follows from is not possible any more
        conclude(folder)


def edit_file(folder: RunFolder, name: str, *path: str, value: Any) -> None:
    data = folder.read_json(name)
    inner = data
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    folder.write_json(name, data)


def edit_actions(folder: RunFolder, change: Callable[[list[Any]], object]) -> None:
    """Change the actions of the first chain's last subtask."""
    chain = folder.records()[0].chain
    actions = folder.read_actions(chain)
    change(actions[len(actions) - 1])
    folder.write_actions(chain, list(actions.values()))


def _nudge(actions: list[Any]) -> None:
    first, *others = actions[0]
    actions[0] = (np.asarray(first, dtype=np.float64) + 1e-3, *others)


def _claim_all(data: Data) -> None:
    for chain in data:
        chain["subtasks"][-1]["success"] = True


def _other_tasks(data: Data) -> None:
    data[0]["tasks"][-1] = data[0]["subtasks"][-1]["task"] = "close_drawer"


def _swap_starts(data: Data) -> None:
    one, two = (chain["initial_state"] for chain in data[:2])
    data[0]["initial_state"], data[1]["initial_state"] = two, one


def _extra_subtask(data: Data) -> None:
    last = data[0]["subtasks"][-1]
    last["success"] = True
    data[0]["tasks"] = [*data[0]["tasks"], "turn_on_led"]
    data[0]["subtasks"].append({**last, "task": "turn_on_led", "success": False})


def _repeat_line(folder: RunFolder) -> None:
    path = folder.path / "chains.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[0]]))


def _leave_out(folder: RunFolder) -> None:
    edit_records(folder, lambda data: data.pop())


def _leave_out_of_the_plan(folder: RunFolder) -> None:
    header = folder.document()
    planned = header["chains"]["planned"][:-1]
    folder.update_header(chains={**header["chains"], "planned": planned})
    edit_records(folder, lambda data: data.pop())


def _official_header(folder: RunFolder) -> None:
    folder.update_header(verdict={"official": True, "reasons": []})


def _records(edit: Callable[[Data], object]) -> Forge:
    return lambda folder: edit_records(folder, edit)


def _header(**changes: Any) -> Forge:
    return lambda folder: edit_header(folder, {k.replace("__", "."): v for k, v in changes.items()})


def _file(name: str, *path: str, value: Any) -> Forge:
    return lambda folder: edit_file(folder, name, *path, value=value)


FORGERIES: dict[str, Forge] = {
    "a failure becomes a success": _records(_claim_all),
    "a success is moved": _records(lambda d: d[0]["subtasks"][0].update(steps=STEPS - 1)),
    "a success becomes a failure": _records(
        lambda d: d[0].update(subtasks=[{**d[0]["subtasks"][0], "success": False}])
    ),
    "a success becomes an error": _records(
        lambda d: d[0].update(status="error", error="boom", subtasks=[])
    ),
    "an extra subtask": _records(_extra_subtask),
    "start states are swapped": _records(_swap_starts),
    "another hash of a state": _records(lambda d: d[0]["subtasks"][0].update(state_hash="0" * 32)),
    "other tasks": _records(_other_tasks),
    "other sentences": _records(lambda d: d[0]["subtasks"][0].update(instruction="do it")),
    "an action that differs by a thousandth": lambda f: edit_actions(f, _nudge),
    "an action that is not a number": lambda f: edit_actions(
        f, lambda a: a.__setitem__(3, np.full(7, np.nan))
    ),
    "an action beyond all bounds": lambda f: edit_actions(
        f, lambda a: a.__setitem__(3, np.full(7, 1e300))
    ),
    "actions after the end": lambda f: edit_actions(f, lambda a: a.append(a[-1])),
    "actions are missing": lambda f: edit_actions(f, lambda a: a.pop()),
    "a line that is there twice": _repeat_line,
    "a chain is left out": _leave_out,
    "a chain is left out of the plan": _leave_out_of_the_plan,
    "official in the header": _official_header,
    "an average length in the summary": _file("summary.json", "average_length", value=4.9),
    "a rate in the summary": _file("summary.json", "success_rates", "1", value=0.99),
    "official in the summary": _file("summary.json", "verdict", "official", value=True),
    "an extra key in the summary": _file("summary.json", "comment", value="best"),
    "an average length in the results": _file("results.json", "null", "avg_seq_len", value=4.9),
    "another scene": _header(scene="A"),
    "another revision in one place": _header(config__sim__revision="head"),
    "another policy in one place": _header(policy__ckpt="builtin:still"),
    "another split in one place": _header(config__split="A"),
    "another checkpoint in one place": _header(config__ckpt="best.pt"),
    "another backend's deterministic world": _header(config__sim__deterministic=False),
    "assets that are not here": _header(assets__fingerprint=BENCHMARK.pack),
    "planned are a thousand": _header(chains__planned=list(range(1000))),
    "another chain list's hash": _header(chains__sha256="0" * 64),
    "another chain list's name": _header(chains__list="upstream:99999"),
    "other sentences' hash": _header(instructions__sha256=BENCHMARK.instructions),
    "another budget": _header(config__protocol__steps=2 * STEPS),
    "a camera without a renderer": _header(policy__requirements__rgb=["static"]),
    "a stage that is not in use": _header(config__policy__observe={"say": {"use": "instruction"}}),
}
"""Edits by name; every one of them must cost a bundle its badge, whether found or not checkable."""
