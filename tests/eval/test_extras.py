"""What needs a package that the core does not bring says so, and nothing else needs one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from hiding import hiding
from packaging.requirements import Requirement

from calvin_eval.doctor.extras import check_extras
from calvin_eval.extras import (
    EXTRAS,
    MissingExtraError,
    install_command,
    missing_extra,
    missing_modules,
    require,
)

pytestmark = pytest.mark.slow

TOOLS = {"all", "dev", "docs", "test"}
TORCH = 'pip install "calvin-eval[torch]"'
CARD = """
name: Still
training_split: D
parameters: 0
observation_space: [robot_obs]
action_space: relative
licence: MIT
links: {paper: "https://example.org/paper", code: "https://example.org/code"}
"""
MODULES = {"pyzmq": "zmq"}
"""Import names of distributions that are called otherwise."""
EVERYTHING = sorted({module for modules in EXTRAS.values() for module in modules})


def call(
    folder: Path, *arguments: object, hidden: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    hide(folder).mkdir(exist_ok=True)
    environment = hiding(hide(folder), EVERYTHING if hidden is None else hidden)
    return subprocess.run(
        [sys.executable, "-m", "calvin_eval", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def hide(folder: Path) -> Path:
    """Where the child's start-up code lies: not among the user's own files."""
    return folder.with_name(f"{folder.name}-hide")


def done(folder: Path, *arguments: object) -> str:
    child = call(folder, *arguments)
    assert child.returncode == 0, f"{arguments}:\n{child.stdout}\n{child.stderr}"
    return child.stdout


def archive(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def make_checkpoints(folder: Path) -> Path:
    """Checkpoints of all kinds, as far as their kind is recognised by."""
    archive(folder / "script.pt", {"script/constants.pkl": b"", "script/code/x.py": b""})
    archive(folder / "export.pt2", {"export/models/model.json": b"{}"})
    archive(folder / "module.pt", {"module/data.pkl": pickle.dumps(Counter())})
    run = folder / "robovlms"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"robovlm_name": "RoboKosMos"}))
    archive(run / "weights.pt", {"weights/data.pkl": pickle.dumps({})})
    empty = (2).to_bytes(8, "little") + b"{}"
    (run / "weights.safetensors").write_bytes(empty)
    (folder / "lone.safetensors").write_bytes(empty)
    (folder / "lerobot_act").mkdir()
    (folder / "lerobot_act" / "config.json").write_text(
        json.dumps({"type": "act", "input_features": {}, "output_features": {}})
    )
    (folder / "mine.py").write_text("import torch\n\nclass Mine:\n    pass\n")
    (folder / "run").symlink_to(Path(__file__).parent.parent / "golden" / "schema_1")
    return folder


NEEDED = {
    "--ckpt script.pt": "torch",
    "--ckpt export.pt2 --trust": "torch",
    "--ckpt module.pt --trust": "torch",
    "--ckpt robovlms": "vla",
    "--ckpt robovlms/weights.pt": "vla",
    "--ckpt robovlms/weights.safetensors": "vla",
    "--ckpt lerobot_act": "lerobot",
    "--ckpt builtin:random --ckpt script.pt": "torch",
    "--ckpt builtin:random engine=ray": "ray",
    "--ckpt builtin:random --render gl": "gl",
    "check --ckpt script.pt": "torch",
    "serve --ckpt script.pt": "torch",
    "record --out data --policy script.pt": "torch",
    "train data=.": "vla",
    "track run --to tensorboard:logs": "tensorboard",
    "track run --to wandb:project": "wandb",
}
REFUSED = {
    "--ckpt export.pt2": "pass --trust",
    "--ckpt module.pt": "pass --trust",
    "--ckpt lone.safetensors": "without an architecture",
    "--ckpt script.pt policy.python=/nowhere/python": "/nowhere/python: it cannot be run",
    "--ckpt script.pt --policy robovlms": "is for checkpoints of the kind 'robovlms'",
}
ALL = """
import contextlib, io, json, os, sys
from calvin_eval.cli.main import main

def call(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line.split())
    started = os.path.exists(os.environ["STARTED_PROCESSES"])
    return code, out.getvalue(), err.getvalue(), started

json.dump({line: call(line) for line in sys.argv[1:]}, sys.stdout)
"""
Answer = tuple[int, str, str, bool]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Exit code, output, errors, and whether a process was started, for each command line."""
    folder = make_checkpoints(tmp_path_factory.mktemp("checkpoints"))
    hide(folder).mkdir()
    child = subprocess.run(
        [sys.executable, "-c", ALL, *NEEDED, *REFUSED], check=False,
        cwd=folder, capture_output=True, text=True, env=hiding(hide(folder), EVERYTHING),
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert not (folder / "runs").exists()
    found: dict[str, Answer] = json.loads(child.stdout)
    return found


def test_the_table_has_the_extras_of_the_distribution() -> None:
    facts = metadata.metadata("calvin-eval")
    declared = set(facts.get_all("Provides-Extra") or ()) - TOOLS
    assert set(EXTRAS) == declared
    needed: dict[str, set[str]] = {extra: set() for extra in EXTRAS}
    for text in metadata.requires("calvin-eval") or ():
        requirement = Requirement(text)
        for extra in EXTRAS:
            if requirement.marker and requirement.marker.evaluate({"extra": extra}):
                names = (
                    {module for inner in requirement.extras for module in EXTRAS[inner]}
                    if requirement.name == "calvin-eval"
                    else {MODULES.get(requirement.name, requirement.name)}
                )
                if not requirement.marker.evaluate({"extra": ""}):
                    needed[extra] |= names
    assert needed == {extra: set(modules) for extra, modules in EXTRAS.items()}


@pytest.mark.parametrize(("line", "extra"), NEEDED.items())
def test_one_line_names_the_command_before_anything_starts(
    answers: dict[str, Answer], line: str, extra: str
) -> None:
    code, out, errors, started = answers[line]
    (message,) = errors.splitlines()
    assert message.startswith("error: ")
    assert "(not installed)" in message
    assert install_command(extra) in message
    assert (code, out, started) == (2, "", False)


@pytest.mark.parametrize(("line", "words"), REFUSED.items())
def test_what_the_core_can_refuse_is_refused_for_its_own_reason(
    answers: dict[str, Answer], line: str, words: str
) -> None:
    code, _, errors, _ = answers[line]
    assert code == 2
    assert words in errors.splitlines()[-1]


def test_a_class_that_imports_torch_gets_the_same_line(tmp_path: Path) -> None:
    files = make_checkpoints(tmp_path)
    child = call(files, "--ckpt", "mine.py:Mine", hidden=["torch"])
    (line,) = child.stderr.splitlines()
    assert line == f"error: mine.py:Mine at mine.py:1 needs torch (not installed): {TORCH}"
    assert child.returncode == 2
    assert not (files / "runs").exists()


def test_the_gymnasium_module_names_its_extra(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import calvin_eval.sim.gym"],
        capture_output=True, text=True, check=False, env=hiding(tmp_path, ["gymnasium"]),
    )  # fmt: skip
    last = child.stderr.splitlines()[-1]
    assert last.startswith("calvin_eval.extras.MissingExtraError: calvin_eval.sim.gym needs gym")
    assert install_command("gym") in last


def test_missing_modules_are_those_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert missing_modules("ray") == ("ray",)
    with pytest.raises(
        MissingExtraError, match=r"^this needs ray \(not installed\): pip install .*\. So\.$"
    ):
        require("ray", "this", "So.")
    with pytest.raises(ImportError):
        require("ray", "this")
    assert "not installed: " in check_extras().detail
    assert "ray" in check_extras().detail.partition("not installed: ")[2]


def test_only_what_an_extra_brings_is_blamed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_extra(ModuleNotFoundError("none", name="no_such_module"), "this") is None
    assert missing_extra(ImportError("cannot import name", name="torch"), "this") is None
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "peft", None)
    for module, extra in (("torch.nn", "torch"), ("peft", "vla")):
        found = missing_extra(ModuleNotFoundError("none", name=module), "this")
        assert found is not None
        assert found.extra == extra


def test_the_core_does_its_work_without_any_extra(tmp_path: Path) -> None:
    run = ("--num-chains", 2, "protocol.steps=20", "--workers", 1, "--render", "tiny")
    done(tmp_path, "--ckpt", "builtin:expert", *run, "--out", "a", "--video", 1)
    done(tmp_path, "--ckpt", "builtin:random", *run, "--out", "b")
    assert (tmp_path / "a" / "report.html").is_file()
    assert list((tmp_path / "a" / "videos").glob("*.mp4"))
    done(tmp_path, "report", "a")
    done(tmp_path, "video", "b", "--chains", "0", "--format", "gif")
    done(tmp_path, "compare", "a", "b")
    assert call(tmp_path, "gate", "a", "--min-avg-len", "4").returncode in (1, 4)
    (tmp_path / "model.yaml").write_text(CARD)
    done(tmp_path, "bundle", "b", "--meta", "model.yaml", "-o", "b.zip")
    done(tmp_path, "verify", "b.zip")
    done(tmp_path, "card", "a")
    done(tmp_path, "check", "--ckpt", "builtin:random", "protocol.steps=5", "--num-chains", 1)
    done(tmp_path, "presets")
    made = done(tmp_path, "doctor", "--json", "--render", "tiny")
    found = {entry["name"]: entry for entry in json.loads(made)["findings"]}
    assert found["extras"]["detail"].startswith("none; not installed: gl, gym, lerobot")


def test_demonstrations_are_recorded_and_checked_without_any_extra(tmp_path: Path) -> None:
    done(
        tmp_path, "record", "--out", "data", "--episodes", 1, "--validation", 0, "--length", 1,
        "--tasks", "turn_on_led",
    )  # fmt: skip
    done(tmp_path, "dataset", "check", "data", "--images", 1)
    child = call(tmp_path, "dataset", "export-lerobot", "data", "--out", "other")
    assert (child.returncode, install_command("lerobot") in child.stderr) == (2, True)
