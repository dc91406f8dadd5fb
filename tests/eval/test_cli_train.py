"""`calvin-eval train` from the command line, and what comes of it in an evaluation."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_training import SMALL, write_data

from calvin_eval.cli.main import main
from calvin_eval.config.training import compose_training
from calvin_eval.running.training import Shown

pytestmark = pytest.mark.slow

SHORT = ("protocol.steps=3", "protocol.num_chains=1", "engine.workers=0", "sim.render=tiny")
LORA = ("train_setup.lora_enable=true", "train_setup.lora_r=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def trained(data: Path, out: Path, *overrides: str) -> int:
    return main(["train", "--quiet", f"data={data}", f"out={out}", *SMALL, *overrides])


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluated(ckpt: Path, out: Path, *overrides: str) -> dict[str, Any]:
    assert main(["--ckpt", str(ckpt), "--out", str(out), "--quiet", *SHORT, *overrides]) == 0
    header: dict[str, Any] = json.loads((out / "header.json").read_text(encoding="utf-8"))
    return header


@pytest.mark.parametrize("how", [(), LORA], ids=["full", "lora"])
def test_training_lowers_the_loss_and_the_checkpoint_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    given = ("trainer.max_steps=30", "trainer.max_epochs=-1", "learning_rate=0.01", "batch_size=8")
    assert trained(data, out, *given, *how, "save.every=30", "train_dataset.rgb_pad=-1") == 0
    losses = [float(row["train_loss"]) for row in logged(out)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    printed = capsys.readouterr().out
    assert "trained at step 30 after 240 samples" in printed
    assert f"Evaluate: calvin-eval --ckpt {out} --split D" in printed
    run = evaluated(out, tmp_path / "applied")
    assert run["policy"]["checkpoint"]["path"].endswith("step=30.ckpt")
    assert run["policy"]["compat"]["act_insert"] == "per_row"
    if how:
        merged = evaluated(out, tmp_path / "merged", "policy.options.merge=true")
        found = [header["policy"]["adapter"]["merged"] for header in (run, merged)]
        assert found == [False, True]


def test_the_harness_scores_checkpoints_during_training(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = f"evaluate.overrides=[{','.join(SHORT)}]"
    assert trained(data, out, "trainer.max_steps=2", "evaluate.at_end=true", asked) == 0
    last = logged(out)[-1]
    assert float(last["eval_average_length"]) == 0.0
    assert float(last["eval_success_1"]) == 0.0
    header = json.loads((out / "evaluations/step=2/header.json").read_text(encoding="utf-8"))
    assert header["config"]["ckpt"] == str(out)
    assert header["config"]["protocol"]["steps"] == 3


def test_ctrl_c_saves_and_resume_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Shown, position: Any, values: Any) -> None:
        if position.step == 2:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Shown, "stepped", interrupt)
        assert trained(data, out, "trainer.max_steps=4") == 130
    printed = capsys.readouterr().out
    assert "stopped at step 2" in printed
    assert f"Go on: calvin-eval train out={out} resume=true" in printed
    assert [path.name for path in out.glob("*.ckpt")] == ["epoch=0-step=2.ckpt"]
    assert main(["train", "--quiet", f"out={out}", "resume=true"]) == 0
    assert "trained at step 4" in capsys.readouterr().out


def test_an_older_run_is_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert trained(data, out, "trainer.max_steps=1") == 0
    before = {path: path.read_bytes() for path in out.glob("*.ckpt")}
    assert trained(data, out, "trainer.max_steps=1") == 2
    assert "exists: go on with it by resume=true" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.glob("*.ckpt")} == before
    assert trained(data, out, "trainer.max_steps=1", "overwrite=true") == 0
    assert list((tmp_path / "run.bak-1").glob("*.ckpt"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "Did you mean learning_rate?"),
        ("+trainer.max_step=1", "Did you mean trainer.max_steps?"),
        ("lora_r=4", "Did you mean train_setup.lora_r?"),
        ("model=tinny", "unknown model 'tinny': expected one of"),
        ("model=none.json", "none.json cannot be read"),
        ("batch_size=0", "expected batch_size to be a whole number from 1 up"),
        ("window_size=two", "expected window_size to be a whole number"),
        ("trainer=5", "expected keys trainer.KEY=VALUE"),
        ("resume=maybe", "expected resume=true or resume=false"),
        ("evaluate.overrides=[protocol.step=1]", "Did you mean protocol.steps?"),
        ("learning_rate", "have the form key=value"),
        ("model=kosmos vlm.sizes.image_size=8", "unknown configuration key 'vlm.sizes"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["train", f"data={tmp_path}", *override.split(), "--print-config"]) == 2
    assert message in capsys.readouterr().err


def test_without_data_nothing_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "expected data=PATH" in capsys.readouterr().err
    assert main(["train", "resume=true"]) == 2
    assert "expected out=FOLDER with resume=true" in capsys.readouterr().err


def test_the_tiny_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"data={tmp_path}", "--print-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["window_size"], shown["fwd_pred_next_n"], shown["batch_size"]) == (1, 10, 64)
    assert shown["act_head"]["type"] == "FCDecoder"
    assert (shown["scheduler"], shown["min_lr_scale"]) == ("half-cosine", 0.02)
    assert (shown["warmup_steps"], shown["warmup_epochs"]) == (200, 0)
    assert shown["trainer"]["precision"] == "32"


@pytest.mark.parametrize("name", ["kosmos", "llava", "paligemma", "qwen", "smolvlm"])
def test_pretrained_models_are_looked_for_and_never_downloaded(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["train", f"data={data}", f"out={tmp_path / 'run'}", f"model={name}"]) == 2
    printed = capsys.readouterr().err
    assert "expected the folder of a vision-language model at .vlms/" in printed
    assert not (tmp_path / "run").exists()


def test_a_project_file_of_robovlms_is_a_start(tmp_path: Path) -> None:
    parent = {"window_size": 8, "train_setup": {"lora_r": 8}, "fwd_pred_next_n": 10}
    child = {
        "parent": "base.json", "robovlm_name": "RoboKosMos", "model": "kosmos",
        "vlm": {"name": "kosmos"}, "act_head": {"type": "FCDecoder", "hidden_size": 77},
        "image_mean": [0.5], "window_size": 4,
    }  # fmt: skip
    (tmp_path / "base.json").write_text(json.dumps(parent), encoding="utf-8")
    (tmp_path / "child.json").write_text(json.dumps(child), encoding="utf-8")
    given = [f"data={tmp_path}", "fwd_pred_next_n=5", f"model={tmp_path / 'child.json'}"]
    found = compose_training(given).project
    assert (found["window_size"], found["fwd_pred_next_n"]) == (4, 5)
    assert (found["act_head"]["hidden_size"], found["act_head"]["num_layers"]) == (77, 4)
    assert found["train_setup"]["lora_r"] == 8
    assert found["image_mean"] == [0.5], "what the file has stays in it"
    assert found["vlm"]["name"] == "kosmos"
