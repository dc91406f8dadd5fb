"""`calvin-eval train audit`: what project files train, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_vlm import project, save_vlm

from calvin_eval.cli.main import main
from calvin_eval.errors import UsageError
from calvin_eval.running.audit import audit, find_configs, trains


def write(folder: Path, name: str, **values: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    setup = values.pop("train_setup", {})
    document = project("kosmos", **values)
    if setup is None:
        del document["train_setup"]["lora_enable"]
    else:
        document["train_setup"] |= setup
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({}, "full"),
        ({"train_vision": False}, "full, not vision"),
        ({"lora_enable": True, "lora_r": 8}, "LoRA r 8, alpha 16"),
        ({"freeze_backbone": True, "train_text_embedding": True}, "head + words"),
        ({"train_decoder_layers": 2, "train_vision": True}, "last 2 layers + vision"),
    ],
)
def test_what_is_trained_in_words(setup: dict[str, Any], words: str) -> None:
    assert trains(setup) == words


@pytest.mark.slow
def test_parameters_are_counted_without_weights(tmp_path: Path) -> None:
    """As many as the model that is really built has."""
    from calvin_eval.vla.compat import Compat
    from calvin_eval.vla.model import RoboVLM
    from calvin_eval.vla.training.setup import TrainSetup, parameter_report, prepare

    vlm = save_vlm(tmp_path / ".vlms" / "kosmos", "kosmos")
    whole = write(tmp_path, "whole.json", train_setup={"train_vision": True})
    lora = write(tmp_path, "lora.json", train_setup={"lora_enable": True, "lora_r": 2})
    for path in (whole, lora):
        values = json.loads(path.read_text())
        model = RoboVLM.build(values, vlm, Compat())
        prepare(model, TrainSetup.from_config(values))
        counted = {row.part: (row.total, row.trained) for row in parameter_report(model)}
        assert audit(path).parts == counted
    assert audit(lora).parts["adapters"][1] > 0  # type: ignore[index]


@pytest.mark.slow
def test_the_table_over_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/one.json", gpus=8, kl_div_ratio=0.1)
    write(tmp_path, "a/two.json", train_setup=None)
    write(tmp_path, "b/three.json", train_setup={"lora_enable": True})
    write(tmp_path, "b/rtx.json", train_dataset={"type": "RTXDataset"})
    (tmp_path / "b" / "vocabulary.json").write_text("{}")
    assert main(["train", "audit", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "4 configurations; lora_enable: 2 false, 1 absent, 1 true" in out
    row = next(line for line in out.splitlines() if line.strip().startswith("three.json"))
    assert "LoRA r 64, alpha 16" in row
    assert "unknown" in row  # there is no folder of the vision-language model
    assert "one.json, no effect:" in out
    assert "gpus" in out
    assert "kl_div_ratio" in out
    assert "rtx.json: refused: train_dataset.type='RTXDataset'" in out


def test_a_file_that_is_no_configuration_has_a_row(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    found = audit(broken)
    assert found.parts is None
    assert "is not JSON" in (found.reason or "")


def test_nothing_to_audit_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_configs([str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="robovlm_name"):
        find_configs([str(tmp_path)])
    assert main(["train", "audit"]) == 2
    assert "expected calvin-eval train audit PATH" in capsys.readouterr().err
