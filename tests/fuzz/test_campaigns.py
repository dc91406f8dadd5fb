"""Damaged documents, archives and texts through everything that reads them.

Whatever is read, the answer is a result or one error of calvin-eval's; never another exception,
never a hang. `make fuzz` runs more of the same: mutation N of a campaign is the same everywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mutations import TEXTS, as_json, damaged_bytes, damaged_document, damaged_text

from calvin_eval.cli import main as cli
from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.gate_spec import parse_gate
from calvin_eval.sim.chain_files import read_chain_file
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.wrappers.builtin.replay import read_recording
from calvin_eval.wrappers.loaders.detect import detect
from calvin_eval.wrappers.loaders.weights import inspect_pickle
from calvin_eval.wrappers.servers.codec import OPENPI, VLA_EVAL
from handmade import record, write_run

COUNT = int(os.environ.get("FUZZ", "25"))
"""Mutations of each campaign."""
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
SECONDS = 20
"""That one mutation may take."""


@contextlib.contextmanager
def limit(what: str) -> Iterator[None]:
    """Fail where one mutation hangs."""

    def hang(number: int, frame: object) -> None:
        raise AssertionError(f"{what} takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def campaign(name: str, step: Callable[[random.Random], None]) -> None:
    """Run a step for every number of the campaign."""
    for number in range(FIRST, FIRST + COUNT):
        with limit(f"{name} {number}"):
            try:
                step(random.Random(f"{name} {number}"))
            except CalvinEvalError:
                continue
            except Exception as error:
                raise AssertionError(f"mutation {number} of {name}: {error!r}") from error


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command in this process; what would end with exit code 70 is raised."""

    def defect(error: BaseException) -> int:
        raise error

    monkeypatch.setattr(cli, "report_defect", defect)

    def run(*arguments: object) -> int:
        code = cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        for text in (told.out, told.err):
            assert "\x1b" not in text
            assert "Traceback" not in text
        return code

    return run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    records = [record(chain, length) for chain, length in enumerate((5, 2, 0, 4))]
    return write_run(tmp_path / "run", [*records, record(4, 1, error=True)])


def through_commands(command: Any, folder: Path, other: Path, rng: random.Random) -> None:
    match rng.randrange(6):
        case 0:
            command("report", folder)
        case 1:
            command("gate", folder, "--min-avg-len", "3")
        case 2:
            command("card", folder, "--out", folder / "card.json")
        case 3:
            command("compare", folder, other)
        case 4:
            command("merge", folder, folder, "--out", folder.parent / "merged")
        case _:
            command("track", folder, "--to", f"tensorboard:{folder.parent / 'tb'}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["header.json", "profile.json", "summary.json"])
def test_documents_of_a_run_folder(
    command: Any, run_folder: Path, tmp_path: Path, name: str
) -> None:
    command("report", run_folder)
    document = json.loads((run_folder / "header.json").read_bytes())
    if name != "header.json":
        profile = {"shares": {"reset": 0.5}, "advice": "x", "workers": [1], "wall_seconds": 1.0}
        path = run_folder / name
        document = json.loads(path.read_bytes()) if path.exists() else profile

    def step(rng: random.Random) -> None:
        folder = Path(shutil.copytree(run_folder, tmp_path / "copy"))
        data = as_json(damaged_document(document, rng))
        (folder / name).write_bytes(damaged_bytes(data, rng) if rng.random() < 0.2 else data)
        try:
            through_commands(command, folder, run_folder, rng)
        finally:
            shutil.rmtree(folder)
            shutil.rmtree(tmp_path / "merged", ignore_errors=True)

    campaign(name, step)


@pytest.mark.slow
def test_journals(command: Any, run_folder: Path, tmp_path: Path) -> None:
    lines = (run_folder / "chains.jsonl").read_bytes().splitlines()
    records = [json.loads(line)["record"] for line in lines]

    def line(document: Any) -> bytes:
        text = json.dumps(document, separators=(",", ":")).encode()
        return b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(text), text)

    def step(rng: random.Random) -> None:
        folder = Path(shutil.copytree(run_folder, tmp_path / "copy"))
        data = b"".join(map(line, damaged_document(records, rng) or []))
        data = damaged_bytes(data, rng) if rng.random() < 0.3 else data
        (folder / "chains.jsonl").write_bytes(data)
        try:
            through_commands(command, folder, run_folder, rng)
        finally:
            shutil.rmtree(folder)
            shutil.rmtree(tmp_path / "merged", ignore_errors=True)

    def safe(rng: random.Random) -> None:
        with contextlib.suppress(TypeError):  # of this test: no list of records is left
            step(rng)

    campaign("journal", safe)


@pytest.mark.slow
def test_cards(command: Any, tmp_path: Path) -> None:
    run_folder = write_run(tmp_path / "run", [record(chain, chain) for chain in range(6)])
    assert command("card", run_folder, "--out", tmp_path / "card.json") == 0
    document = json.loads((tmp_path / "card.json").read_bytes())

    def step(rng: random.Random) -> None:
        (tmp_path / "bad.json").write_bytes(as_json(damaged_document(document, rng)))
        command("gate", run_folder, "--max-drop", "0.5", "--baseline", tmp_path / "bad.json")

    campaign("card", step)


def test_gates() -> None:
    text = "min-avg-len=3.5,confidence=0.9,max-drop=0.2,min-task:open_drawer=0.5"
    campaign("gate", lambda rng: parse_gate(damaged_text(text, rng)) and None)


KEYS = (
    "ckpt", "split", "out", "seed", "engine", "engine.workers", "engine.devices", "engine.name",
    "sim", "sim.draw", "sim.draw.shadow_detail", "sim.assets", "protocol", "protocol.chains",
    "protocol.steps", "protocol.realtime", "protocol.execute", "policy", "policy.actions",
    "policy.options", "policy.observe", "policy.observe.images", "policy.arguments", "video",
    "video.cameras", "video.which", "video.height", "gate", "hydra", "x", "+x", "~policy",
)  # fmt: skip


@pytest.mark.slow
def test_configuration(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def step(rng: random.Random) -> None:
        pairs = [f"{rng.choice(KEYS)}={rng.choice(TEXTS)}" for _ in range(rng.choice((1, 2)))]
        command("--ckpt", "builtin:still", "--print-config", *pairs)

    campaign("configuration", step)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["preset", "arguments"])
def test_yaml_of_users(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    documents = {
        "preset": {"defaults": ["openpi"], "policy": {"actions": {"execute": {"steps": 3}}},
                   "protocol": {"steps": 100}},
        "arguments": {"path": "x", "speed": 0.5, "table": {"a": [1, 2]}},
    }  # fmt: skip

    def step(rng: random.Random) -> None:
        damaged = damaged_document(documents[kind], rng)
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            text = yaml.safe_dump(damaged) if rng.random() < 0.7 else damaged_text("a: 1\n", rng)
            (tmp_path / "x.yaml").write_text(text, encoding="utf-8", errors="replace")
        options = ("--policy", "x.yaml") if kind == "preset" else ("policy.arguments=x.yaml",)
        command("--ckpt", "builtin:still", "--print-config", *options)

    campaign(kind, step)


def test_chain_lists(tmp_path: Path) -> None:
    chain = load_chains("official")[0]
    document = [[dict(chain.initial_state), list(chain.tasks)]] * 2

    def step(rng: random.Random) -> None:
        data = as_json(damaged_document(document, rng))
        (tmp_path / "list.json").write_bytes(
            damaged_bytes(data, rng) if rng.random() < 0.3 else data
        )
        read_chain_file(tmp_path / "list.json")

    campaign("chains", step)


def test_instructions(tmp_path: Path) -> None:
    pack = load_pack("builtin", verify=False)
    from calvin_eval.sim.symbolic import TASK_NAMES

    document = {task: [f"do {task}"] for task in TASK_NAMES}

    def step(rng: random.Random) -> None:
        path = tmp_path / "text.json"
        path.write_bytes(as_json(damaged_document(document, rng)))
        load_instructions(str(path), pack.instructions)

    campaign("instructions", step)


def test_archives(tmp_path: Path) -> None:
    stream = io.BytesIO()
    actions = {f"chain000{i}_sub0_actions": np.zeros((3, 7)) for i in range(3)}
    np.savez_compressed(stream, **actions)

    def step(rng: random.Random) -> None:
        path = tmp_path / "x.npz"
        path.write_bytes(damaged_bytes(stream.getvalue(), rng))
        if detect(path) == "recording":
            read_recording(path)

    campaign("archive", step)


def test_checkpoints(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    files = {}
    for name, how in (("new", True), ("old", False)):
        stream = io.BytesIO()
        torch.save({"w": torch.ones(3)}, stream, _use_new_zipfile_serialization=how)
        files[name] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/code/x.py", b"class A: pass")
    files["script"] = stream.getvalue()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    files["safetensors"] = len(header).to_bytes(8, "little") + header + bytes(4)

    def step(rng: random.Random) -> None:
        path = tmp_path / "x.pt"
        path.write_bytes(damaged_bytes(files[rng.choice(sorted(files))], rng))
        if detect(path) == "pickle":
            inspect_pickle(path)

    campaign("checkpoint", step)


@pytest.mark.parametrize("codec", [OPENPI, VLA_EVAL], ids=["openpi", "vla-eval"])
def test_messages(codec: Any) -> None:
    message = codec.pack({"a": np.zeros((2, 3), np.float32), "b": [1, "x", None], "c": {"d": 0.5}})
    campaign("message", lambda rng: codec.unpack(damaged_bytes(message, rng)) and None)
