"""LoRA adapters: applied they give what the summed weights give, merged or not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from robovlms_reference import make_run, old_name
from safetensors.torch import load_file, save_file
from tiny_vlm import project
from torch import Tensor, nn

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.wrappers.loaders import LoadedPolicy, resolve
from calvin_eval.wrappers.policy import Request

pytestmark = pytest.mark.slow

R, ALPHA = 4, 16
CHECKPOINT = "epoch=4-step=7.ckpt"


def original_targets(model: nn.Module) -> list[str]:
    """Last name component of every linear layer, but the output layer (RoboVLMs)."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return sorted({name.rpartition(".")[2] for name in linear} - {"lm_head"})


def trained(folder: Path, family: str, **options: Any) -> Any:
    """The run's model, its backbone wrapped by peft, with adapters that are not zero."""
    config = project(family)
    vlm = folder / config["vlm"]["pretrained_model_name_or_path"]
    model = RoboVLM.build(config, vlm, Compat())
    state = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    model.load_state_dict(
        {name: state[f"model.{old_name(family, name)}"] for name in model.state_dict()}
    )
    targets = original_targets(model.backbone)
    given = {"r": R, "lora_alpha": ALPHA, "lora_dropout": 0.05, "bias": "none", **options}
    settings = LoraConfig(target_modules=targets, **given)
    torch.manual_seed(5)
    wrapped = get_peft_model(model if options.get("modules_to_save") else model.backbone, settings)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
            elif name.endswith(".bias") and settings.bias != "none":
                parameter.add_(0.1)
    return model, wrapped


def summed(folder: Path, target: Path, model: RoboVLM, family: str = "kosmos") -> Path:
    """A plain run with W + alpha / r B A in place of W, worked out by hand."""
    make_run(target, family)
    values: dict[str, Tensor] = {}
    own = model.state_dict()
    for name, value in own.items():
        if "lora_" not in name and "original_module" not in name:
            name = name.replace(".base_layer.", ".").replace(".modules_to_save.default", "")
            values[name] = value.clone()
    for name, down in own.items():
        if ".lora_A." in name:
            weight = name.replace(".lora_A.default", "")
            values[weight] += ALPHA / R * own[name.replace("lora_A", "lora_B")] @ down
    named = {f"model.{old_name(family, name)}": value for name, value in values.items()}
    torch.save({"state_dict": named}, target / CHECKPOINT)
    return target


def act(loaded: LoadedPolicy) -> np.ndarray:
    """The chunks of a few steps, before any stage."""
    draw = np.random.default_rng(0)
    policy = loaded.policy.policy  # type: ignore[attr-defined]
    policy.reset(0, "push it")
    chunks = []
    for step in range(3):
        images = {
            f"rgb_{camera}": draw.integers(0, 255, (size, size, 3), np.uint8)
            for camera, size in (("static", 200), ("gripper", 84))
        }
        obs = {"rgb_obs": images, "robot_obs": np.zeros(15)}
        asked = Request(session=0, instruction="push it", position=0, step=step, obs=obs)
        chunks.append(policy.act([asked])[0])
    return np.stack(chunks)


def load(path: Path, **options: Any) -> LoadedPolicy:
    return resolve(str(path), options=options)


@pytest.mark.parametrize("family", ["kosmos", "paligemma"])
def test_an_adapter_beside_a_checkpoint(tmp_path: Path, family: str) -> None:
    folder = make_run(tmp_path / "run", family)
    model, wrapped = trained(folder, family)
    wrapped.save_pretrained(folder / "adapter")
    expected = act(load(summed(folder, tmp_path / "summed", model, family)))
    applied, merged = load(folder), load(folder, merge=True)
    np.testing.assert_allclose(act(applied), expected, atol=1e-5)
    np.testing.assert_allclose(act(merged), act(applied), atol=1e-5)
    plain = act(load(folder, adapter="none"))
    assert np.abs(plain - expected).max() > 0.01
    facts = applied.metadata["adapter"]
    assert facts["modules"] == sum(name.endswith("lora_A.default") for name in _modules(wrapped))
    assert facts["weights"] == sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
    assert (facts["r"], facts["lora_alpha"], facts["merged"]) == (R, ALPHA, False)
    assert "LoRA r 4 applied" in applied.description
    assert "LoRA r 4 merged" in merged.description
    assert not any("lora" in name for name in _modules(merged.policy.policy._model))  # type: ignore[attr-defined]
    json.dumps(applied.metadata)


def _modules(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules()]


def test_an_adapter_with_an_older_transformers_names(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "paligemma")
    _, wrapped = trained(folder, "paligemma")
    wrapped.save_pretrained(folder)
    expected = act(load(folder))
    file = folder / "adapter_model.safetensors"
    prefix = "base_model.model."
    renamed = {
        prefix
        + old_name("paligemma", f"backbone.{key.removeprefix(prefix)}")[len("backbone.") :]: v
        for key, v in load_file(file).items()
    }
    assert any(key.startswith(f"{prefix}language_model.model.layers") for key in renamed)
    save_file(renamed, file)
    np.testing.assert_array_equal(act(load(folder)), expected)


@pytest.mark.parametrize("options", [{"bias": "all"}, {"use_rslora": True, "lora_alpha": 8}])
def test_other_settings_of_peft(tmp_path: Path, options: dict[str, Any]) -> None:
    """Biases trained with the adapters; the scale alpha / sqrt(r), here the same number."""
    folder = make_run(tmp_path / "run", "kosmos")
    model, wrapped = trained(folder, "kosmos", **options)
    wrapped.save_pretrained(folder / "adapter")
    expected = act(load(summed(folder, tmp_path / "summed", model)))
    np.testing.assert_allclose(act(load(folder)), expected, atol=1e-5)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("only_second", [False, True])
def test_adapters_in_the_state_dict(tmp_path: Path, twice: bool, only_second: bool) -> None:
    """RoboVLMs registers the adapted backbone a second time, as `model`."""
    folder = make_run(tmp_path / "run", "kosmos")
    model, wrapped = trained(folder, "kosmos")
    expected = act(load(summed(folder, tmp_path / "summed", model)))
    named = {f"model.{name}": value for name, value in model.state_dict().items()}
    again = {f"model.model.{name}": value for name, value in wrapped.state_dict().items()}
    assert (
        "model.model.base_model.model.text_model.model.layers.0.ffn.fc1.lora_A.default.weight"
        in again
    )
    if only_second:
        named = {name: value for name, value in named.items() if ".backbone." not in name}
    if twice or only_second:
        named.update(again)
    torch.save({"state_dict": named}, folder / CHECKPOINT)
    with pytest.raises(CheckpointError, match="expected lora_r and lora_alpha under train_setup"):
        load(folder)
    _change_config(folder, lora_enable=True, lora_r=R, lora_alpha=ALPHA, lora_bias="none")
    applied, merged = load(folder), load(folder, merge=True)
    np.testing.assert_allclose(act(applied), expected, atol=1e-5)
    np.testing.assert_allclose(act(merged), expected, atol=1e-5)
    assert applied.metadata["load_report"]["unexpected"]["count"] == 0
    wrapped.save_pretrained(folder / "adapter")
    with pytest.raises(CheckpointError, match=r"choose with policy\.options\.adapter=none"):
        load(folder)


def _change_config(folder: Path, **train_setup: Any) -> None:
    (path,) = folder.glob("*-project.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    config["train_setup"].update(train_setup)
    path.write_text(json.dumps(config), encoding="utf-8")


def test_an_adapter_alone_lies_on_its_base(tmp_path: Path) -> None:
    """The whole model wrapped, the head trained beside the adapters."""
    folder = make_run(tmp_path / "run", "kosmos")
    model, wrapped = trained(folder, "kosmos", modules_to_save=["act_head"])
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.05)
    (config,) = folder.glob("*-project.json")
    alone = tmp_path / "alone"
    wrapped.save_pretrained(alone)
    expected = act(load(summed(folder, tmp_path / "summed", model)))
    vlm = folder / ".vlms" / "kosmos"
    given = {"config": str(config), "vlm": str(vlm)}
    for base in (folder, folder / CHECKPOINT):
        found = load(alone, base=str(base), **given)
        np.testing.assert_allclose(act(found), expected, atol=1e-5)
    # The head is in the adapter's folder, the action token is not.
    with pytest.raises(
        CheckpointError, match="lacks 1 weights of the action head or token: action"
    ):
        load(alone, **given)
    with pytest.raises(UsageError, match="goes with an adapter's folder"):
        load(folder, base=str(folder))
    values = json.loads(config.read_text(encoding="utf-8"))
    (alone / "config.json").write_text(
        json.dumps({**values, "model_load_path": str(tmp_path / "nowhere.pt")}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"is an adapter on .*nowhere\.pt, which is not here"):
        load(alone, vlm=str(vlm))


def test_what_cannot_be_applied(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "kosmos")
    _, wrapped = trained(folder, "kosmos")
    one, two = folder / "one", folder / "two"
    wrapped.save_pretrained(one)
    wrapped.save_pretrained(two)
    with pytest.raises(CheckpointError, match=r"several adapters \(one, two\)"):
        load(folder)
    assert "LoRA" in load(folder, adapter=str(two)).description
    with pytest.raises(UsageError, match="expected a folder with adapter_config"):
        load(folder, adapter=str(tmp_path))
    file = two / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({k.replace("text_model", "txt_model"): v for k, v in whole.items()}, file)
    with pytest.raises(
        CheckpointError, match=r"adapts 'txt_model.*', which this model does not have"
    ):
        load(folder, adapter=str(two))
    save_file({k: torch.cat([v, v], dim=int("lora_B" in k)) for k, v in whole.items()}, file)
    with pytest.raises(CheckpointError, match=r"is \(8, \d+\), the model expects \(4, \d+\)"):
        load(folder, adapter=str(two))
    settings = two / "adapter_config.json"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(re.sub('"LORA"', '"IA3"', text), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected a LoRA adapter, found peft_type 'IA3'"):
        load(folder, adapter=str(two))
