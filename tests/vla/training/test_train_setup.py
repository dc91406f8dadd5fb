"""Full fine-tuning and LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tiny_vlm
import torch
from peft import PeftModel
from tiny_batch import batch, with_rows
from torch import Tensor, nn

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.lora import save_adapter
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.vla.training.schedule import build_optimizer
from calvin_eval.vla.training.setup import (
    TrainSetup,
    lora_targets,
    parameter_report,
    prepare,
)
from calvin_eval.wrappers.loaders import resolve

pytestmark = pytest.mark.slow

Builder = Callable[..., RoboVLM]
LORA = {"lora_enable": True, "lora_r": 4, "lora_alpha": 16, "lora_dropout": 0.0}
FULL = {"train_vision": True, "train_text_embedding": True}
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def vlms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vlms")
    for family in tiny_vlm.FAMILIES:
        tiny_vlm.save_vlm(root / family, family)
    return root


@pytest.fixture(scope="module")
def build(vlms: Path) -> Builder:
    def make(family: str = "kosmos", head: dict[str, Any] | None = None, **setup: Any) -> RoboVLM:
        torch.manual_seed(0)
        config = project(family, head, **setup)
        model = RoboVLM.build(config, vlms / family, Compat())
        tiny_vlm.set_weights(model)
        prepare(model, TrainSetup.from_config(config))
        return model

    return make


def project(family: str, head: dict[str, Any] | None = None, **setup: Any) -> dict[str, Any]:
    config = tiny_vlm.project(family, window_size=3, fwd_pred_next_n=2, act_head=head or {})
    config["train_setup"] = {"predict_action": True, **setup}
    return config


def fitting(model: RoboVLM) -> dict[str, Any]:
    given = batch(size=model.preprocess.size)
    return with_rows(given, model.action_tokenizer) if model.action_tokenizer else given


def learn(model: RoboVLM, steps: int = 6) -> list[float]:
    trainee, given = Trainee(model).train(), fitting(model)
    optimizer = build_optimizer(trainee, {"learning_rate": 3e-3})
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = trainee(given)["loss"]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    model.eval()
    return losses


def part(model: RoboVLM, name: str, parameter: Tensor) -> str:
    if parameter is model.parts.words.weight:
        return "words"
    if ".lora_" in name:
        return "adapters"
    parts = model.parts
    places = {"vision": parts.vision_at, "text": parts.text_at, "output": parts.head_at}
    for place, found in places.items():
        if name.startswith(f"backbone.{found}."):
            return place
    return "projector" if name.startswith("backbone.") else "head"


FLAGS: list[tuple[dict[str, Any], set[str]]] = [
    (FULL, {"vision", "text", "words", "projector", "head"}),
    (LORA, {"adapters", "head"}),
    ({"train_text_embedding": True}, {"text", "words", "projector", "head"}),
    ({"train_vision": True}, {"vision", "text", "projector", "head"}),
    ({"freeze_backbone": True}, {"head"}),
    ({"freeze_backbone": True, "train_vision": True}, {"vision", "head"}),
    ({"train_decoder_layers": 0}, {"head"}),
    ({"train_decoder_layers": 2}, {"text", "head"}),
    ({**LORA, **FULL}, {"adapters", "words", "head"}),
]
EVERYWHERE = [(family, *row) for family in tiny_vlm.FAMILIES for row in FLAGS[:2]]


@pytest.mark.parametrize(
    ("family", "setup", "expected"), [*EVERYWHERE, *(("kosmos", *row) for row in FLAGS[2:])]
)
def test_what_flags_freeze_gets_no_gradient(
    build: Builder, family: str, setup: dict[str, Any], expected: set[str]
) -> None:
    model = build(family, **setup)
    if model.parts.vision_is_fixed:
        expected = expected - {"vision"}
    trained = {part(model, n, p) for n, p in model.named_parameters() if p.requires_grad}
    has = {part(model, n, p) for n, p in model.named_parameters()} | {"adapters"}
    assert trained - {"output"} == expected & has
    assert ("output" in trained) == ("output" in has and "projector" in expected)
    Trainee(model).train()(fitting(model))["loss"].backward()
    moved = {part(model, n, p) for n, p in model.named_parameters()
             if p.grad is not None and p.grad.any()}  # fmt: skip
    assert moved == trained - {"output"}  # which a continuous model never asks


def test_the_last_decoder_layers_alone(build: Builder) -> None:
    model = build(train_decoder_layers=1)
    names = {n for n, p in model.named_parameters() if p.requires_grad and "act" not in n}
    assert names == {
        f"backbone.text_model.model.layers.1.{n}"
        for n, _ in model.parts.text.layers[1].named_parameters()
    }
    with pytest.raises(UsageError, match="has 2 layers, found 3"):
        build(train_decoder_layers=3)


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
def test_adapters_lie_on_every_linear_layer_of_the_text_model(build: Builder, family: str) -> None:
    model = build(family)
    others = (model.parts.vision_at, model.parts.projector_at or "-")
    names = model.backbone.named_modules()
    inner = [(n, m) for n, m in names if n.startswith(f"{model.parts.text_at}.")]
    linear = {id(m) for n, m in inner if isinstance(m, nn.Linear) and not n.startswith(others)}
    targets = lora_targets(model)
    assert {id(model.backbone.get_submodule(name)) for name in targets} == linear
    assert len(targets) == len(linear) > 7
    adapted = build(family, **LORA)
    wrapped = {n for n, _ in adapted.backbone.named_modules() if n.endswith(".base_layer")}
    assert wrapped == {f"{name}.base_layer" for name in targets}
    factors = [p for n, p in adapted.named_parameters() if ".lora_A." in n]
    assert {p.shape[0] for p in factors} == {4}


def test_the_originals_rule_matches_last_names(build: Builder) -> None:
    """It reaches layers of the vision tower that are called like some elsewhere."""
    kosmos = lora_targets(build(), "robovlms")
    linear = {n for n, m in build().backbone.named_modules() if isinstance(m, nn.Linear)}
    assert set(kosmos) == linear - {"text_model.lm_head"}
    llava = lora_targets(build("llava"), "robovlms")
    vision = {n.rpartition(".")[2] for n in llava if "vision_tower" in n}
    assert vision == {"q_proj", "k_proj", "v_proj"}
    assert "model.multi_modal_projector.linear_1" in llava
    report = {row.part: row for row in parameter_report(build(**LORA, lora_targets="robovlms"))}
    language = {row.part: row for row in parameter_report(build(**LORA))}
    assert report["adapters"].total > language["adapters"].total


@pytest.mark.parametrize("head", [{}, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("setup", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["kosmos", "paligemma", "smolvlm"])
def test_both_ways_lower_the_loss(
    build: Builder, family: str, setup: dict[str, Any], head: dict[str, Any]
) -> None:
    model = build(family, head, **setup)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = learn(model)
    assert losses[-1] < 0.95 * losses[0]
    for name, before in frozen.items():
        assert torch.equal(model.get_parameter(name), before), name


@pytest.mark.parametrize("form", ["inside", "folder"])
@pytest.mark.parametrize("family", ["kosmos", "paligemma", "smolvlm"])
@torch.no_grad()
def test_merged_weights_give_what_adapters_give(
    build: Builder, vlms: Path, tmp_path: Path, family: str, form: str
) -> None:
    """A trained model comes back from its checkpoint, adapters apart or merged."""
    setup = {**LORA, "train_text_embedding": True}
    model = build(family, **setup)
    with torch.enable_grad():
        learn(model)
    config = project(family, **setup)
    config["vlm"]["pretrained_model_name_or_path"] = str(vlms / family)
    (tmp_path / "now-project.json").write_text(json.dumps(config), encoding="utf-8")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    if form == "folder":
        state = {n.replace(".base_layer.", "."): v for n, v in state.items() if ".lora_" not in n}
        save_adapter(model, tmp_path / "adapter")
    torch.save({"state_dict": state}, tmp_path / "epoch=0-step=6.ckpt")
    given = batch()
    expected = model.features(given["rgb"], given["hand_rgb"], given["text"], given["text_mask"])
    for merge in (False, True):
        loaded = resolve(str(tmp_path), options={"merge": merge})
        again: RoboVLM = loaded.policy.policy._model  # type: ignore[attr-defined]
        assert merge != any(".lora_" in name for name in again.state_dict())
        got = again.features(given["rgb"], given["hand_rgb"], given["text"], given["text_mask"])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        for name in ("action_token", "act_head.rnn.weight_ih_l0"):
            assert torch.equal(again.get_parameter(name), model.get_parameter(name))


@torch.no_grad()
def test_peft_itself_reads_the_folder(build: Builder, vlms: Path, tmp_path: Path) -> None:
    model, base = build(**LORA), build()
    with torch.enable_grad():
        learn(model)
    save_adapter(model, tmp_path)
    again = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    given = batch()
    shown = [given[key] for key in ("rgb", "hand_rgb", "text", "text_mask")]
    expected = model.features(*shown)
    torch.testing.assert_close(again.base_model.model.features(*shown), expected)
    assert torch.equal(base.action_token, model.action_token)


def test_an_adapter_folder_needs_adapters(build: Builder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model with LoRA adapters"):
        save_adapter(build(), tmp_path)


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
def test_checkpointed_activations_give_the_same_gradient(build: Builder, family: str) -> None:
    found = []
    for on in (False, True):
        model = build(family, **FULL, gradient_checkpointing=on).train()
        torch.manual_seed(3)
        Trainee(model)(fitting(model))["loss"].backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], atol=1e-6, rtol=1e-4)


def test_activations_are_computed_twice_where_the_option_says(build: Builder) -> None:
    counts = {}
    for on in (False, True):
        model = build(**FULL, gradient_checkpointing=on).train()
        attention = model.parts.text.layers[0].self_attn
        with patch.object(attention, "forward", wraps=attention.forward) as forward:
            Trainee(model)(fitting(model))["loss"].backward()
        counts[on] = forward.call_count
    assert counts == {False: 1, True: 2}


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_biases_are_trained_as_the_option_says(build: Builder, bias: str) -> None:
    model = build(**LORA, lora_bias=bias)
    biases = {n: p for n, p in model.backbone.named_parameters() if n.endswith("bias")}
    adapted = {n for n in biases if n.endswith("base_layer.bias")}
    trained = {name for name, parameter in biases.items() if parameter.requires_grad}
    assert len(biases) > len(adapted) > 2
    assert trained == {"none": set(), "all": set(biases), "lora_only": adapted}[bias]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resampler_is_trained_unless_it_is_frozen(vlms: Path, frozen: bool) -> None:
    """Also where the backbone is frozen, as in RoboVLMs."""
    config = project("kosmos", freeze_backbone=True, freeze_resampler=frozen)
    model = RoboVLM.build({**config, "use_vision_resampler": True}, vlms / "kosmos", Compat())
    prepare(model, TrainSetup.from_config(config))
    Trainee(model).train()(fitting(model))["loss"].backward()
    moved = [n for n, p in model.named_parameters() if p.grad is not None and "resampler" in n]
    # 64 latents, 6 layers of 11 parameters, and the norm behind them.
    assert len(moved) == (0 if frozen else 1 + 6 * 11 + 2)
    report = {row.part: row for row in parameter_report(model)}
    assert (report["resampler"].trained == 0) == frozen


def test_the_report_counts_every_parameter_once(build: Builder) -> None:
    for family in tiny_vlm.FAMILIES:
        for setup in (FULL, LORA, {"freeze_backbone": True}):
            model = build(family, **setup)
            *rows, whole = parameter_report(model)
            assert whole.part == "all"
            assert whole.total == sum(p.numel() for p in model.parameters())
            assert whole.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert sum(row.total for row in rows) == whole.total
            assert sum(row.trained for row in rows) == whole.trained
    found = {row.part: row for row in parameter_report(build(**LORA))}
    assert set(found) == {
        "vision tower", "text model", "word embeddings", "projector", "adapters", "policy head",
        "action token", "all",
    }  # fmt: skip
    trained = {name for name, row in found.items() if row.trained}
    assert trained == {"adapters", "policy head", "action token", "all"}
    assert found["action token"].total == tiny_vlm.HIDDEN


def test_settings_of_lora() -> None:
    assert TrainSetup.from_config({}) == TrainSetup()
    setup = TrainSetup.from_config({"train_setup": {"lora_enable": True}})
    found = (setup.lora_r, setup.lora_alpha, setup.lora_dropout, setup.lora_bias)
    assert found == (64, 16, 0.05, "none")
    given = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0, "lora_bias": "all"}
    assert TrainSetup.from_config({"train_setup": given}) == TrainSetup(**given)


def test_dropout_acts_on_adapters_in_training_only(build: Builder) -> None:
    model = build(**{**LORA, "lora_dropout": 0.5})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    given = fitting(model)
    losses = [Trainee(model).train(on)(given)["loss"].item() for on in (False, False, True, True)]
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ({"lora_bias": "some"}, UnknownNameError, "lora_only"),
        ({"lora_targets": "everything"}, UnknownNameError, "language"),
        ({"lora_r": 0}, UsageError, "lora_r from 1 up"),
        ({"lora_r": 4.5}, UsageError, "lora_r: expected a value like int"),
        ({"train_vision": "yes"}, UsageError, "train_vision: expected a value like bool"),
        ({"lora_dropout": 1}, UsageError, "lora_dropout in"),
        ({"train_decoder_layers": -2}, UsageError, "train_decoder_layers"),
        ({"bits": 4}, UsageError, "quantised"),
        ({"predict_caption": True}, UsageError, "captions"),
        ({"freeze_mm_mlp_adapter": True}, UsageError, "projector"),
    ],
)
def test_options_that_are_not_built_are_refused(
    setup: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TrainSetup.from_config({"train_setup": setup})
