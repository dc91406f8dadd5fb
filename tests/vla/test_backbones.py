from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, DynamicCache

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.backbones import FAMILIES, Backbone, build_backbone

Builder = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    root = tmp_path_factory.mktemp("vlms")
    made: dict[str, Backbone] = {}

    def build(family: str) -> Backbone:
        if family not in made:
            torch.manual_seed(0)
            made[family] = build_backbone(tiny_vlm.save_vlm(root / family, family))
            made[family].model.eval()
        return made[family]

    return build


def images(family: str, count: int = 2) -> Tensor:
    side = tiny_vlm.IMAGE_SIZE.get(family, 28)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def close(left: Tensor, right: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=0)


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
@torch.no_grad()
def test_words_alone_give_what_transformers_own_model_gives(backbone: Builder, family: str) -> None:
    made = backbone(family)
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 9, 8, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    got = made.logits(made.decode(made.embed(ids), mask.bool()))
    whole: Any = made.model
    if family == "kosmos":
        whole = made.model.text_model
        ids = torch.tensor([[5, 6, 7, 8, 9], [5, 9, 8, 4, 4]])  # pads would stop its positions
        got = made.logits(made.decode(made.embed(ids), mask.bool()))
    # PaliGemma's own forward counts positions from 1; only their differences matter.
    expected = whole(input_ids=ids, attention_mask=mask).logits
    close(got[mask.bool()], expected[mask.bool()], atol=1e-4)


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
@torch.no_grad()
def test_attention_is_causal(backbone: Builder, family: str) -> None:
    made = backbone(family)
    embeds = torch.randn(1, 6, tiny_vlm.HIDDEN)
    mask = torch.ones(1, 6, dtype=torch.bool)
    before = made.decode(embeds, mask)
    embeds[:, 4] = torch.randn(tiny_vlm.HIDDEN)
    after = made.decode(embeds, mask)
    close(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
@torch.no_grad()
def test_padding_on_the_left_and_a_cache_change_nothing(backbone: Builder, family: str) -> None:
    made = backbone(family)
    embeds = torch.randn(2, 7, tiny_vlm.HIDDEN)
    expected = made.decode(embeds, torch.ones(2, 7, dtype=torch.bool))
    padded = torch.cat([torch.randn(2, 3, tiny_vlm.HIDDEN), embeds], 1)
    mask = torch.arange(10).expand(2, -1) >= 3
    positions = (torch.arange(10).expand(2, -1) - 3).clamp(min=0)
    cache = DynamicCache(config=made.text.config)
    first = made.decode(padded[:, :8], mask[:, :8], positions[:, :8], cache)
    close(first[:, 3:], expected[:, :5])
    for column in (8, 9):
        part = slice(column, column + 1)
        more = made.decode(padded[:, part], mask[:, : column + 1], positions[:, part], cache)
        close(more[:, 0], expected[:, column - 3])


@torch.no_grad()
def test_kosmos_images_are_normed_patches_gathered_by_the_queries(backbone: Builder) -> None:
    made, batch = backbone("kosmos"), images("kosmos")
    tower = made.model.vision_model.model
    patches = tower.encoder(tower.pre_layrnorm(tower.embeddings(batch)))[0]
    patches = tower.post_layernorm(patches)
    patches = patches / patches.norm(dim=-1, keepdim=True)
    expected, _ = made.model.image_to_text_projection(patches)
    assert expected.shape == (2, 5, tiny_vlm.HIDDEN)
    close(made.encode_images(batch), expected)


@torch.no_grad()
def test_kosmos_scales_embeddings_and_adds_sinusoidal_positions(backbone: Builder) -> None:
    made = backbone("kosmos")
    embeds = torch.randn(1, 4, tiny_vlm.HIDDEN)
    seen: list[Tensor] = []
    hook = made.text.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made.decode(embeds, torch.ones(1, 4, dtype=torch.bool))
    hook.remove()
    # Position p of a sequence is row padding_idx + 1 + p of the table.
    position = (torch.arange(4) + 2)[:, None]
    rate = torch.exp(torch.arange(16) * -(torch.log(torch.tensor(1e4)) / 15))
    table = torch.cat([torch.sin(position * rate), torch.cos(position * rate)], 1)
    close(seen[0][0], embeds[0] * tiny_vlm.HIDDEN**0.5 + table)


@torch.no_grad()
def test_paligemma_scales_words_and_action_tokens_but_not_images(backbone: Builder) -> None:
    """transformers 4 multiplied all embeddings by sqrt(D), so RoboVLMs divides images before."""
    made = backbone("paligemma")
    seen: list[Tensor] = []
    hook = made.text.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    action = torch.randn(1, 1, tiny_vlm.HIDDEN)
    tokens = made.encode_images(images("paligemma", 1))
    words = made.embed(torch.tensor([[3, 4]]))
    made.decode(torch.cat([words, tokens, action], 1), torch.ones(1, 7, dtype=torch.bool))
    hook.remove()
    close(seen[0][:, :2], made.model.get_input_embeddings()(torch.tensor([[3, 4]])))
    raw = made.model.get_image_features(images("paligemma", 1)).pooler_output
    close(seen[0][:, 2:6], raw)
    close(seen[0][:, 6:], action * tiny_vlm.HIDDEN**0.5)
    assert torch.equal(words[0], made.words.weight[3:5])


@torch.no_grad()
def test_llava_and_idefics_images_are_transformers_own(backbone: Builder) -> None:
    llava = backbone("llava")
    expected = torch.stack(list(llava.model.get_image_features(images("llava")).pooler_output))
    assert expected.shape == (2, 4, tiny_vlm.HIDDEN)
    close(llava.encode_images(images("llava")), expected)
    for family in ("idefics3", "smolvlm"):
        made, batch = backbone(family), images(family)
        theirs = made.model.get_image_features(batch.unsqueeze(1)).pooler_output
        close(made.encode_images(batch), torch.stack(list(theirs)))
        # transformers drops all-black images; here a black image is an image.
        assert made.encode_images(torch.zeros_like(batch)).shape == (2, 1, tiny_vlm.HIDDEN)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@torch.no_grad()
def test_qwen_images_equal_those_of_its_image_processor(backbone: Builder, family: str) -> None:
    from transformers import Qwen2VLImageProcessorPil

    made = backbone(family)
    raw = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    theirs = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)
    given = theirs(list(raw), return_tensors="pt")
    expected = torch.stack(
        list(made.model.get_image_features(given.pixel_values, given.image_grid_thw).pooler_output)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (theirs.image_mean, theirs.image_std))
    close(made.encode_images((raw / 255 - mean) / std), expected, atol=1e-4)
    wrapped = made.wrap_images(expected)
    start, end = made.words.weight[990], made.words.weight[991]
    assert torch.equal(wrapped[1], torch.cat([start[None], expected[1], end[None]]))
    with pytest.raises(UsageError, match=r"multiple of 14 \* 2 pixels, found 42"):
        made.encode_images(torch.zeros(1, 3, 42, 42))


def old_name(family: str, key: str) -> str:
    """A parameter's name in transformers 4.37 to 4.49."""
    if family in ("paligemma", "llava"):
        key = key.replace("model.vision_tower.", "vision_tower.vision_model.")
        key = key.replace("model.multi_modal_projector", "multi_modal_projector")
        key = key.replace("model.language_model.", "language_model.model.")
        return key.replace("lm_head", "language_model.lm_head")
    if family == "llava_mpt":
        return key.replace(
            ".vision_tower.vision_tower.", ".vision_tower.vision_tower.vision_model."
        )
    if family.startswith("qwen"):
        return key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return key


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
def test_names_of_older_transformers_find_their_parameters(backbone: Builder, family: str) -> None:
    made = backbone(family)
    names = list(made.model.state_dict())
    old = [old_name(family, name) for name in names]
    assert (old != names) == (family not in ("kosmos", "idefics3", "smolvlm"))
    assert [made.rename_old_key(key) for key in old] == names
    assert [made.rename_old_key(key) for key in names] == names


def test_the_parts_of_a_model_are_found(backbone: Builder) -> None:
    for family in tiny_vlm.FAMILIES:
        made = backbone(family)
        assert isinstance(made.model, torch.nn.Module)
        assert made.hidden_size == tiny_vlm.HIDDEN
        assert made.words is made.model.get_input_embeddings()
        assert made.head is made.model.get_output_embeddings()
        modules = set(made.model.modules())
        assert {made.text, made.vision, made.head} <= modules
        assert all(p.dtype == torch.float32 for p in made.model.parameters())


def test_a_saved_model_is_what_is_built(tmp_path: Path) -> None:
    folder = tiny_vlm.save_vlm(tmp_path, "paligemma", save_weights=True)
    saved: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    assert set(build_backbone(folder).model.state_dict()) == set(saved.state_dict())


@pytest.mark.parametrize("text", ["{}", '{"model_type": "qwen", "auto_map": {}}', "[]", "nonsense"])
def test_families_with_code_of_their_own_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as raised:
        build_backbone(tmp_path)
    if text.startswith("{"):
        assert all(known in str(raised.value) for known in FAMILIES)
        assert "policy.robovlms_checkout=PATH policy.python=PATH --trust" in str(raised.value)
    else:
        assert "expected the config.json of a vision-language model" in str(raised.value)


def test_a_missing_or_broken_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        build_backbone(tmp_path)
    for values in ({"text_config": 3}, {"vision_config": {"hidden_size": 7}}):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **values}))
        with pytest.raises(CheckpointError, match="transformers makes no model of it"):
            build_backbone(tmp_path)
