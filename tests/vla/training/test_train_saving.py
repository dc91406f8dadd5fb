"""Run folders: checkpoints, adapters, the state to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SMALL, TrainingNotes, run, weights, write_data
from tiny_vlm import save_vlm
from torch import Tensor

from calvin_eval.config.training import compose_training
from calvin_eval.errors import RunFolderError
from calvin_eval.vla.checkpoint import find_checkpoint, read_weights
from calvin_eval.vla.training.loop import train
from calvin_eval.vla.training.progress import TrainingOutcome
from calvin_eval.vla.training.saving import (
    Position,
    checkpoint_name,
    read_position,
    start_folder,
    written,
)
from calvin_eval.wrappers.loaders import declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.policy import Request


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def full(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    out = tmp_path_factory.mktemp("full") / "run"
    return run(data, out, "trainer.max_steps=5", "save.every=1", "compat.pre_select=oldest")


@pytest.fixture(scope="module", params=["none", "all", "lora_only"])
def lora(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingOutcome:
    """Adapters on a pretrained model, strong enough to be seen, with biases or without."""
    folder = tmp_path_factory.mktemp("lora")
    vlm = save_vlm(folder / "vlm", "smolvlm", save_weights=True)
    small = [text for text in SMALL if not text.startswith("vlm.sizes")]
    config = compose_training([
        f"data={data}", f"out={folder / 'run'}", *small, "model=smolvlm", "use_hand_rgb=true",
        "act_head.type=FCDecoder", "trainer.precision='32'", "learning_rate=0.05",
        f"vlm.pretrained_model_name_or_path={vlm}", "trainer.max_steps=4",
        "train_setup.lora_enable=true", "train_setup.lora_r=2", "train_setup.train_vision=false",
        "train_setup.train_text_embedding=false", f"train_setup.lora_bias={request.param}",
        "train_setup.lora_targets=robovlms",
    ])  # fmt: skip
    return train(config.project, config.out, TrainingNotes())


def chunk(ckpt: Path, **options: Any) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    obs = {"rgb_obs": {"rgb_static": image, "rgb_gripper": image}, "robot_obs": np.zeros(15)}
    asked = Request(session=0, instruction="open the drawer", position=0, step=0, obs=obs)
    return np.asarray(resolve(str(ckpt), options=options).policy.act([asked])[0])


@pytest.mark.slow
def test_a_checkpoint_has_robovlms_layout(full: TrainingOutcome) -> None:
    content: Any = torch.load(full.checkpoint, weights_only=True)
    assert {key: content[key] for key in ("epoch", "global_step")} == {
        "epoch": 0, "global_step": 5,
    }  # fmt: skip
    assert full.checkpoint.name == "epoch=0-step=5.ckpt"
    assert {"action_token", "act_head", "backbone"} == {
        name.split(".")[1] for name in content["state_dict"]
    }
    assert all(name.startswith("model.") for name in content["state_dict"])
    assert find_checkpoint(full.folder) == full.checkpoint


def test_the_safetensors_file_has_the_same_weights(full: TrainingOutcome) -> None:
    other = load_file(full.checkpoint.with_suffix(".safetensors"))
    state = weights(full)
    missing = set(state) - set(other)
    assert missing == {"model.backbone.lm_head.weight"}, "tied to the word embeddings"
    assert all(torch.equal(other[name], state[name]) for name in other)
    assert read_weights(full.checkpoint).state.keys() == {n.removeprefix("model.") for n in state}
    path = full.checkpoint.with_suffix(".safetensors")
    assert np.array_equal(chunk(path), chunk(full.folder))


def test_the_newest_checkpoints_are_kept(full: TrainingOutcome) -> None:
    names = sorted(path.name for path in full.folder.glob("epoch=*"))
    assert names == [f"epoch=0-step={s}.{end}" for s in (4, 5) for end in ("ckpt", "safetensors")]
    assert not [path for path in full.folder.rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_the_project_file_says_what_an_evaluation_needs(full: TrainingOutcome, data: Path) -> None:
    (path,) = full.folder.glob("*-project.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["vlm"]["pretrained_model_name_or_path"] == "vlm"
    assert document["train_dataset"]["data_dir"] == str(data / "training")
    assert {"data", "out", "resume", "overwrite"}.isdisjoint(document)
    assert not [p for p in (full.folder / "vlm").iterdir() if p.suffix == ".safetensors"]
    metadata = resolve(str(full.folder), options={}).metadata
    assert metadata["compat"]["pre_select"] == "oldest"
    assert metadata["compat"]["act_insert"] == "per_row"
    chosen = resolve(str(full.folder), options={"compat": "original"}).metadata["compat"]
    assert chosen["act_insert"] == "column"
    stages = declared(Source(ckpt=str(full.folder), options={}))
    assert stages is not None
    assert "unnormalize" not in stages[1], "the tiny model is trained on plain actions"


@pytest.mark.slow
def test_adapters_are_in_the_checkpoint_and_beside_it(lora: TrainingOutcome) -> None:
    """What training computed with, applied or merged, and the adapter on the pretrained model."""
    state = weights(lora)
    assert any(".lora_A.default." in name for name in state)
    applied, merged = chunk(lora.folder), chunk(lora.folder, merge=True)
    np.testing.assert_allclose(merged, applied, atol=1e-5)
    peft = lora.folder / "peft" / lora.checkpoint.stem
    assert {path.name for path in peft.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "adapter-project.json",
    }  # fmt: skip
    np.testing.assert_allclose(chunk(peft), applied, atol=1e-6)
    np.testing.assert_allclose(chunk(peft, merge=True), applied, atol=1e-5)
    changed = [v for name, v in state.items() if "lora_B" in name and v.abs().max() > 1e-3]
    assert changed, "else the comparison says nothing"
    settings = json.loads((peft / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["task_type"] == "CAUSAL_LM"
    biases = [n for n in load_file(peft / "adapter_model.safetensors") if n.endswith("layer.bias")]
    assert bool(biases) == (settings["bias"] != "none")


def test_names_count_epochs_as_lightning_does() -> None:
    assert checkpoint_name(Position(step=7, epoch=1, batch=2)) == "epoch=1-step=7"
    assert checkpoint_name(Position(step=6, epoch=2, batch=0)) == "epoch=1-step=6"
    assert checkpoint_name(Position()) == "epoch=0-step=0"


def test_a_file_that_is_not_finished_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    def fail() -> None:
        with written(path) as place:
            place.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text(encoding="utf-8") == "old"
    with written(path) as place:
        place.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with written(tmp_path / "folder") as place:
            place.mkdir()
            (place / text).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_older_run_is_never_lost(tmp_path: Path) -> None:
    for number in range(3):
        start_folder(tmp_path / "run", overwrite=number > 0)
        (tmp_path / "run" / str(number)).touch()
    with pytest.raises(RunFolderError, match="go on with it by resume=true"):
        start_folder(tmp_path / "run", overwrite=False)
    found = {p.name: [q.name for q in p.iterdir()] for p in tmp_path.iterdir()}
    assert found == {"run": ["2"], "run.bak-1": ["0"], "run.bak-2": ["1"]}


def test_a_state_between_two_renames_is_found(full: TrainingOutcome) -> None:
    at = read_position(full.folder)
    assert at == Position(step=5, epoch=0, batch=5, samples=20)
    (full.folder / "resume").rename(full.folder / "resume.old")
    assert read_position(full.folder) == at
    assert not (full.folder / "resume.old").exists()


@pytest.mark.parametrize("content", [None, "{", '{"steps": 1}'])
def test_without_a_state_nothing_goes_on(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "resume").mkdir()
        (tmp_path / "resume" / "position.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match="expected the state of a training"):
        read_position(tmp_path)


@pytest.mark.slow
def test_weights_are_taken_over_from_a_policy(
    full: TrainingOutcome, data: Path, tmp_path: Path
) -> None:
    start: dict[str, Tensor] = weights(full)
    given = (f"model_load_path={full.checkpoint}", "learning_rate=0", "trainer.max_steps=1")
    now = weights(run(data, tmp_path / "run", *given))
    assert all(torch.equal(now[name], start[name]) for name in start)
