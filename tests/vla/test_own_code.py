"""A vision-language model and a data set of the user's own: the examples in docs/examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_vlm
from tiny_training import TrainingNotes
from transformers import CLIPVisionConfig, LlamaConfig

from calvin_eval.config.training import compose_training
from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.vla.backbones import build_backbone
from calvin_eval.vla.training.loop import train
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.testing import check_policy

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
BACKBONE = f"{EXAMPLES / 'my_vlm.py'}:MyBackbone"
DATA = f"{EXAMPLES / 'my_data.py'}:MyData"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "vlm"
    LlamaConfig(**tiny_vlm.text_config()).save_pretrained(folder)
    eyes = tiny_vlm.vision_config(projection_dim=tiny_vlm.HIDDEN)
    CLIPVisionConfig(**eyes).save_pretrained(folder / "eyes")
    tiny_vlm.tokenizer("llava").save_pretrained(folder)
    return folder


def overrides(vlm: Path, out: Path) -> list[str]:
    return [
        f"out={out}", "model=tiny", "vlm.name=mine", "vlm.from_scratch=true",
        f"vlm.pretrained_model_name_or_path={vlm}", f"vlm.adapter={BACKBONE}",
        f"train_dataset.adapter={DATA}", f"train_dataset.data_dir={vlm}", "image_size=28",
        "window_size=2", "fwd_pred_next_n=2", "act_head.hidden_size=16", "batch_size=4",
        "trainer.max_steps=8", "trainer.precision=32", "trainer.accelerator=cpu",
        "learning_rate=1e-3", "warmup_steps=0", "warmup_epochs=0", "trainer.log_every_n_steps=1",
        "trainer.logger=[csv]", "num_workers=0",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_examples_train_and_their_checkpoint_runs(vlm: Path, tmp_path: Path) -> None:
    config = compose_training(overrides(vlm, tmp_path / "run"))
    notes = TrainingNotes()
    outcome = train(config.project, tmp_path / "run", notes)
    losses = [values["train_loss"] for values in notes.values]
    assert outcome.position.step == 8
    assert losses[-1] < losses[0]
    with pytest.raises(CheckpointError, match="not run unless you name it"):
        resolve(str(tmp_path / "run"))
    loaded = resolve(str(tmp_path / "run"), options={"backbone": BACKBONE})
    assert loaded.metadata["load_report"]["missing"]["count"] == 0
    check_policy(loaded.policy)


@pytest.mark.slow
def test_code_that_a_project_file_names_does_not_run(vlm: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    code = tmp_path / "theirs.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    project = compose_training(overrides(vlm, tmp_path / "run")).project
    project["vlm"]["adapter"] = f"{code}:Theirs"
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(project), encoding="utf-8")
    with pytest.raises(UsageError, match="names code that would run"):
        compose_training([f"model={file}", f"out={tmp_path / 'other'}"])
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "now-project.json").write_text(json.dumps(project), encoding="utf-8")
    (folder / "step=1.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not run unless you name it"):
        resolve(str(folder))
    assert not marker.exists()


def test_what_is_no_backbone_is_refused(vlm: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("class Mine:\n    pass\n\n\nNUMBER = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match="expected a class with from_folder, encode_images"):
        build_backbone(vlm, {"vlm": {"adapter": f"{code}:Mine"}})
    with pytest.raises(UnknownNameError, match="Mine"):
        build_backbone(vlm, {"vlm": {"adapter": f"{code}:Min"}})
    with pytest.raises(UsageError, match=r"expected module:Class or file\.py:Class"):
        build_backbone(vlm, {"vlm": {"adapter": "mine"}})
    tokens = build_backbone(vlm, {"vlm": {"adapter": BACKBONE}}).encode_images(
        tiny_vlm.wave_like((2, 3, 28, 28), 1)
    )
    assert tokens.shape == (2, 4, tiny_vlm.HIDDEN)
    assert np.isfinite(tokens.detach().numpy()).all()
