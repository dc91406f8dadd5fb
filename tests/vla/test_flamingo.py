"""Flamingo against its formulas, written out on their own from the same weights.

The formulas are OpenFlamingo's and those of the first MPT; the tower is transformers' CLIP.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.vla.training.setup import TrainSetup, parameter_report, prepare
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.testing import check_policy

pytestmark = [pytest.mark.slow, pytest.mark.needs("vla")]
TEXTS = ("open the drawer", "push the red block to the left side of it")


def project(**values: Any) -> dict[str, Any]:
    head = {"action_space": "down_sample", "down_sample": "pooling", **values.pop("act_head", {})}
    made = tiny_vlm.project("flamingo", window_size=3, fwd_pred_next_n=2, act_head=head, **values)
    made["vlm"]["name"] = "mpt_1b_ift"
    made["tokenizer"]["additional_special_tokens"] = ["<|endofchunk|>", "<image>"]
    made["vision_encoder"] = {
        "clip_vision_encoder_path": "ViT-L-14", "clip_vision_encoder_pretrained": "openai",
    }  # fmt: skip
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm") / "flamingo", "flamingo")


def build(folder: Path, **values: Any) -> RoboVLM:
    torch.manual_seed(0)
    model = RoboVLM.build(project(**values), folder, Compat())
    tiny_vlm.set_weights(model)
    with torch.no_grad():  # open the gates, which start closed
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(0.5 + 0.1 * len(name) % 1)
    return model


def theirs(model: RoboVLM) -> dict[str, Tensor]:
    """A checkpoint's weights under the original's names, each as often as it has them there."""
    mosaic = {
        ".norm_1.": ".ln_1.", ".norm_2.": ".ln_2.", ".ffn.up_proj.": ".mlp.mlp_up.",
        ".ffn.down_proj.": ".mlp.mlp_down.", ".attn.Wqkv.q_ln.": ".attn.q_ln.",
        ".attn.Wqkv.k_ln.": ".attn.k_ln.", "transformer.norm_f.": "transformer.ln_f.",
    }  # fmt: skip
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        place, _, rest = name.partition(".")
        if place != "backbone":
            state[name] = value
        elif rest.startswith(("vision_encoder.", "perceiver.")):
            state[rest] = value
        elif rest != "lm_head.weight":
            for here, there in mosaic.items():
                rest = rest.replace(here, there)
            copies = [rest]
            head, _, tail = rest.removeprefix("transformer.blocks.").partition(".")
            if "gated_cross_attn_layer" in rest:
                layer = tail.removeprefix("gated_cross_attn_layer.")
                copies.append(f"gated_cross_attn_layers.{head}.{layer}")
            elif "decoder_layer" in rest:
                copies.append(f"old_decoder_blocks.{head}.{tail.removeprefix('decoder_layer.')}")
            state.update(
                {f"{top}.{copy}": value for top in ("backbone", "model") for copy in copies}
            )
    return {f"model.{name}": value for name, value in state.items()}


def tower(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Patches of transformers' CLIP with open_clip's weights, in front of its last norm."""
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=14, hidden_act="quick_gelu",
    )  # fmt: skip
    clip: Any = CLIPVisionModel(config).eval()
    own = clip.state_dict()
    pre = next(name for name in own if name.endswith("class_embedding")).rpartition("embeddings.")[
        0
    ]
    get = {name.removeprefix("model.vision_encoder.visual."): v for name, v in state.items()}
    own[f"{pre}embeddings.class_embedding"] = get["class_embedding"]
    own[f"{pre}embeddings.patch_embedding.weight"] = get["conv1.weight"]
    own[f"{pre}embeddings.position_embedding.weight"] = get["positional_embedding"]
    for part in ("weight", "bias"):
        own[f"{pre}pre_layrnorm.{part}"] = get[f"ln_pre.{part}"]
    for layer in range(2):
        new, old = f"{pre}encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for part in ("weight", "bias"):
            rows = get[f"{old}.attn.in_proj_{part}"].chunk(3)
            for name, row in zip("qkv", rows, strict=True):
                own[f"{new}.self_attn.{name}_proj.{part}"] = row
            for mine, there in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):  # fmt: skip
                own[f"{new}.{mine}.{part}"] = get[f"{old}.{there}.{part}"]
    clip.load_state_dict(own)
    hidden: Tensor = clip(images, output_hidden_states=True).hidden_states[-1]
    return hidden[:, 1:]


def heads(x: Tensor, count: int) -> Tensor:
    return torch.stack(x.chunk(count, -1))


def attention(q: Tensor, k: Tensor, v: Tensor, count: int, bias: Tensor | float = 0.0) -> Tensor:
    """One row: (M, H) over (N, H)."""
    q, k, v = (heads(part, count) for part in (q, k, v))
    scores = torch.einsum("hmd,hnd->hmn", q, k) / math.sqrt(q.shape[-1]) + bias
    return torch.cat(list(torch.einsum("hmn,hnd->hmd", scores.softmax(-1), v)), -1)


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    bias = state.get(f"{name}.bias", torch.zeros_like(weight))
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def latents(state: dict[str, Tensor], patches: Tensor) -> Tensor:
    """The Perceiver of one image."""
    top = "model.perceiver"
    x = state[f"{top}.latents"]
    for layer in range(6):
        at, ff = f"{top}.layers.{layer}.0", f"{top}.layers.{layer}.1"
        y = norm(state, f"{at}.norm_latents", x)
        both = torch.cat([norm(state, f"{at}.norm_media", patches), y])
        k, v = (both @ state[f"{at}.to_kv.weight"].T).chunk(2, -1)
        x = (
            x
            + attention(y @ state[f"{at}.to_q.weight"].T, k, v, 8) @ state[f"{at}.to_out.weight"].T
        )
        x = (
            x
            + F.gelu(norm(state, f"{ff}.0", x) @ state[f"{ff}.1.weight"].T)
            @ state[f"{ff}.3.weight"].T
        )
    return norm(state, f"{top}.norm", x)


def features(state: dict[str, Tensor], ids: Tensor, media: Tensor, shown: int) -> Tensor:
    """One text without padding: what enters the last of three layers."""
    top = "model.model.transformer"
    x = state[f"{top}.wte.weight"][ids]
    distance = torch.arange(len(ids)).float()
    slopes = torch.tensor([2.0**-4, 2.0**-8])  # two heads
    bias = slopes[:, None, None] * (distance[None, None, :] - distance[None, :, None])
    bias = bias.masked_fill(distance[None, None, :] > distance[None, :, None], -math.inf)
    sees = (ids == shown).cumsum(0) > 0
    for layer in range(2):
        gate = f"{top}.blocks.{layer}.gated_cross_attn_layer"
        q = norm(state, f"{gate}.attn.norm", x) @ state[f"{gate}.attn.to_q.weight"].T
        k, v = (media @ state[f"{gate}.attn.to_kv.weight"].T).chunk(2, -1)
        looked = attention(q, k, v, 8) @ state[f"{gate}.attn.to_out.weight"].T
        x = x + looked * sees[:, None] * state[f"{gate}.attn_gate"].tanh()
        inner = F.gelu(norm(state, f"{gate}.ff.0", x) @ state[f"{gate}.ff.1.weight"].T)
        x = x + inner @ state[f"{gate}.ff.3.weight"].T * state[f"{gate}.ff_gate"].tanh()
        block = f"{top}.blocks.{layer}.decoder_layer"
        q, k, v = (norm(state, f"{block}.ln_1", x) @ state[f"{block}.attn.Wqkv.weight"].T).chunk(
            3, -1
        )
        q, k = norm(state, f"{block}.attn.q_ln", q), norm(state, f"{block}.attn.k_ln", k)
        x = x + attention(q, k, v, 2, bias) @ state[f"{block}.attn.out_proj.weight"].T
        up = norm(state, f"{block}.ln_2", x) @ state[f"{block}.mlp.mlp_up.weight"].T
        x = x + F.gelu(up) @ state[f"{block}.mlp.mlp_down.weight"].T
    return x


def frames(count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (len(TEXTS), count, 3, 28, 28)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@torch.no_grad()
def test_features_are_those_of_the_formulas(folder: Path) -> None:
    """Two cameras, two frames, two texts of different lengths: every row as if it were alone."""
    model = build(folder)
    state = theirs(model)
    ids, mask = model.preprocess.text(TEXTS)
    static, hand = frames()
    found = model.features(static, hand, ids, mask)
    assert found.shape == (2, 2, 1, tiny_vlm.HIDDEN)
    shown = model.preprocess.tokenizer.convert_tokens_to_ids("<image>")
    assert (ids[:, 0] == shown).all()
    for row in range(2):
        for frame in range(2):
            media = [
                latents(state, tower(state, camera[row, frame][None])[0])
                for camera in (static, hand)
            ]
            expected = features(state, ids[row][mask[row]], torch.cat(media), shown)
            torch.testing.assert_close(found[row, frame, 0], expected.amax(0), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_words_in_front_of_the_image_do_not_see_it(folder: Path) -> None:
    model = build(folder)
    static, hand = frames(1)
    shown = model.preprocess.tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor([[20, 21, shown, 22]])
    media = [
        torch.cat([model.parts.encode_images(c[row]) for c in (static, hand)], 1) for row in (0, 1)
    ]
    one, two = (model.parts.decode_crossed(ids, torch.ones_like(ids).bool(), m) for m in media)
    torch.testing.assert_close(one[:, :2], two[:, :2], atol=0, rtol=0)
    assert (one[:, 2:] - two[:, 2:]).abs().amax(-1).min() > 1e-4


def test_a_checkpoint_with_the_originals_names_runs(folder: Path, tmp_path: Path) -> None:
    values = project()
    model = build(folder)
    values["vlm"]["pretrained_model_name_or_path"] = str(folder)
    (tmp_path / "run-project.json").write_text(json.dumps(values), encoding="utf-8")
    torch.save({"state_dict": theirs(model)}, tmp_path / "step=1.ckpt")
    loaded = resolve(str(tmp_path))
    report = loaded.metadata["load_report"]
    assert report["missing"]["count"] == report["unexpected"]["count"] == 0
    check_policy(loaded.policy)
    pipeline: Any = loaded.policy
    own = pipeline.policy._model.state_dict()
    for key, value in model.state_dict().items():
        got = own[key]
        assert torch.equal(got, value), key


def test_its_own_rules_say_what_is_trained(folder: Path) -> None:
    def trained(**setup: Any) -> set[str]:
        model = build(folder)
        prepare(model, TrainSetup(**setup))
        names = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {name for name, _ in model.named_parameters() if "act_head" in name} <= names
        kinds = {"gated_cross_attn_layer": "cross", "decoder_layer": "text", "visual": "vision",
                 "perceiver": "resampler", "wte": "words"}  # fmt: skip
        return {kind for part, kind in kinds.items() if any(part in name for name in names)}

    assert trained() == {"cross"}
    published = {"train_resampler": True, "train_text_embedding": True}
    assert trained(**published) == {"cross", "resampler", "words"}
    assert trained(train_full_decoder=True, train_vision=True) == {"cross", "text", "vision"}
    model = build(folder)
    prepare(model, TrainSetup(train_decoder_layers=1))
    names = [name for name, p in model.named_parameters() if p.requires_grad and "gated" in name]
    assert names
    assert all("blocks.2." in name for name in names)
    with pytest.raises(UsageError, match="Flamingo is trained without LoRA"):
        prepare(model, TrainSetup(lora_enable=True))
    assert parameter_report(model)[-1].part == "all"


def test_training_lowers_the_loss(folder: Path) -> None:
    from tiny_batch import batch

    model = build(folder)
    prepare(model, TrainSetup(train_resampler=True, train_text_embedding=True))
    trainee, given = Trainee(model).train(), batch(size=28)
    given["text"][:, 0] = model.preprocess.tokenizer.convert_tokens_to_ids("<image>")
    learned = [p for p in trainee.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = trainee(given)["loss"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("gated_cross_attn_layer", "perceiver", "wte", "act_head"):
        assert any(part in name for name in reached), part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_head": {"action_space": "continuous"}}, "'down_sample' with history 'post' alone"),
        ({"act_head": {"history_type": "pre"}}, "'down_sample' with history 'post' alone"),
    ],
)
def test_heads_that_the_original_cannot_run_are_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(folder, **change)
