"""Which file is taken, under which names weights are read, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from zero_folders import save_zero

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.checkpoint import (
    Weights,
    find_checkpoint,
    load_into,
    plain_name,
    read_weights,
)


class Tiny(nn.Module):
    """Names like a RoboVLM's; the backbone's output layer is tied to its words."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.words = nn.Embedding(5, 4)
        self.backbone.output = nn.Linear(4, 5, bias=False)
        self.backbone.output.weight = self.backbone.words.weight
        self.backbone.register_buffer("position_ids", torch.arange(3))
        self.act_head = nn.Linear(4, 2)
        self.action_token = nn.Parameter(torch.zeros(4))

    def rename_old_key(self, key: str) -> str:
        return key.replace("backbone.old_words.", "backbone.words.")

    def required(self) -> list[str]:
        return ["act_head.weight", "act_head.bias", "action_token"]


def state(model: nn.Module | None = None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = model or Tiny()
    return {name: torch.randn(value.shape) for name, value in model.named_parameters()}


def load(values: dict[str, Tensor], **options: Any) -> tuple[Tiny, Any]:
    model = Tiny()
    weights = Weights(Path("x.ckpt"), values, {})
    return model, load_into(model, weights, required=model.required(), **options)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.action_token", "action_token"),
        ("action_token", "action_token"),
        ("model.act_head.rnn.weight_ih_l0", "act_head.rnn.weight_ih_l0"),
        ("module.model.act_head.mlp.0.weight", "act_head.mlp.0.weight"),
        ("module.backbone.module.layers.0.weight", "backbone.layers.0.weight"),
        ("_forward_module.model.act_head.bias", "act_head.bias"),
        ("_forward_module.module.model.action_token", "action_token"),
        # RoboVLMs takes `module.` out only of keys that start with it.
        ("model.backbone.module.weight", "backbone.module.weight"),
        ("model.backbone.model.norm.weight", "backbone.model.norm.weight"),
    ],
)
def test_names(key: str, expected: str) -> None:
    assert plain_name(key) == expected


@pytest.mark.parametrize(
    "form", ["state_dict", "model_state_dict", "bare", "legacy", "safetensors"]
)
@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "_forward_module.model."])
def test_files_of_all_forms(tmp_path: Path, form: str, prefix: str) -> None:
    values = state()
    named = {prefix + name: value for name, value in values.items()}
    path = tmp_path / "x.pt"
    if form == "safetensors":
        save_file(named, path)
    else:
        content = named if form == "bare" else {form.replace("legacy", "state_dict"): named}
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    found = read_weights(path)
    assert set(found.state) == set(values)
    assert all(torch.equal(found.state[name], value) for name, value in values.items())
    assert len(found.facts["sha256"]) == 64


def test_zero_folders_are_read(tmp_path: Path) -> None:
    values = state()
    named = {f"_forward_module.model.{name}": value for name, value in values.items()}
    found = read_weights(save_zero(tmp_path / "x.ckpt", [named], stage=2, ranks=2))
    assert all(torch.equal(found.state[name], value) for name, value in values.items())
    assert found.facts["format"] == "ZeRO stage 2"
    assert len(found.facts["files"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {}}, r"expected a state dict under state_dict or model_state_dict"),
        ([1, 2], "found list"),
        ({"state_dict": {"a": 3}}, "expected a to be a tensor, found int"),
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "x.pt")


def test_all_weights_arrive_and_half_precision_is_widened() -> None:
    values = state()
    values["act_head.weight"] = values["act_head.weight"].half()
    model, report = load({**values, "backbone.position_ids": torch.tensor([7, 8, 9])})
    own = model.state_dict()
    assert all(torch.equal(own[name], value.float()) for name, value in values.items())
    assert own["act_head.weight"].dtype == torch.float32
    assert own["backbone.position_ids"].tolist() == [7, 8, 9]
    assert report.loaded == len(values) + 1
    assert report.missing == report.unexpected == ()


@pytest.mark.parametrize("given", ["words", "output", "old_words"])
def test_a_tied_weight_under_either_name_fills_both(given: str) -> None:
    values = state()
    matrix = values.pop("backbone.words.weight")
    model, report = load({**values, f"backbone.{given}.weight": matrix})
    assert torch.equal(model.backbone.output.weight, matrix)
    assert model.backbone.output.weight is model.backbone.words.weight
    assert report.missing == ()


@pytest.mark.parametrize("name", ["action_token", "act_head.bias"])
def test_missing_head_keys_are_an_error_that_names_them(name: str) -> None:
    values = state()
    del values[name]
    values["act_head.odd"] = torch.zeros(1)
    with pytest.raises(
        CheckpointError, match=rf"lacks 1 weights of the action head or token: {name}"
    ):
        load(values)
    _, report = load(values, strict=False)
    assert report.missing == (name,)
    assert report.unexpected == ("act_head.odd",)
    assert report.metadata()["missing"] == {"count": 1, "names": [name]}


def test_missing_backbone_weights_come_from_the_vlms_folder(tmp_path: Path) -> None:
    values = state()
    matrix = values.pop("backbone.words.weight")
    with pytest.raises(CheckpointError, match=r"lacks 2 weights of the backbone: backbone\.words"):
        load(values, vlm=tmp_path)
    save_file({"old_words.weight": matrix}, tmp_path / "model.safetensors")
    model, report = load(values, vlm=tmp_path)
    assert torch.equal(model.backbone.words.weight, matrix)
    assert report.from_vlm == ("backbone.words.weight",)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"words.weight": matrix + 1}, tmp_path / "pytorch_model.bin")
    model, _ = load(values, vlm=tmp_path)
    assert torch.equal(model.backbone.words.weight, matrix + 1)


def test_other_shapes_are_an_error_with_both(tmp_path: Path) -> None:
    values = {**state(), "act_head.weight": torch.zeros(3, 4)}
    with pytest.raises(
        CheckpointError, match=r"act_head\.weight: the checkpoint has \(3, 4\), the"
    ):
        load(values, strict=False)


def test_the_newest_checkpoint_of_a_folder_is_taken(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint: expected a file ending in"):
        find_checkpoint(tmp_path)
    (tmp_path / "a.pt").touch()
    assert find_checkpoint(tmp_path).name == "a.pt"
    (tmp_path / "epoch=0-step=900.ckpt").touch()
    assert find_checkpoint(tmp_path).name == "epoch=0-step=900.ckpt"
    (tmp_path / "epoch=9-step=80.ckpt").touch()
    save_zero(tmp_path / "epoch=1-step=1000.ckpt", [state()], stage=2, ranks=1)
    (tmp_path / "notes.ckpt").mkdir()
    assert find_checkpoint(tmp_path).name == "epoch=1-step=1000.ckpt"
    assert find_checkpoint(tmp_path, 80).name == "epoch=9-step=80.ckpt"
    with pytest.raises(CheckpointError, match="no checkpoint of step 5: it has 80, 900, 1000"):
        find_checkpoint(tmp_path, 5)


def test_several_checkpoints_without_steps_need_a_choice(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"\(a\.pt, b\.safetensors\): give one as --ckpt"):
        find_checkpoint(tmp_path)
