from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.backbones import build_backbone
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.preprocess import Preprocess, load_tokenizer, pad

FRAME = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vlms")
    for family in tiny_vlm.FAMILIES:
        tiny_vlm.save_vlm(root / family, family)
    return root


def preprocess(folder: Path, family: str, **values: Any) -> Preprocess:
    compat = values.pop("compat", Compat())
    path = folder / family
    return Preprocess(tiny_vlm.project(family, **values), path, build_backbone(path), compat)


def resized(side: int) -> np.ndarray[Any, Any]:
    return np.asarray(Image.fromarray(FRAME).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("family", ["kosmos", "llava", "qwen2_vl"])
def test_most_families_get_clip_images_of_the_configured_size(folder: Path, family: str) -> None:
    # The configuration's own mean and deviation are read by nobody.
    made = preprocess(folder, family, image_size=24, image_mean=[0, 0, 0], image_std=[9, 9, 9])
    images = made.images([FRAME, FRAME[:, ::-1]])
    expected = (resized(24) / 255 - CLIP[0]) / CLIP[1]
    assert images.shape == (2, 3, 24, 24)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images[0].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    assert not torch.equal(images[0], images[1])


def test_paligemma_gets_what_its_own_image_processor_gives(folder: Path) -> None:
    images = preprocess(folder, "paligemma", image_size=999).images([FRAME])
    theirs = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    expected = theirs(Image.fromarray(FRAME), return_tensors="pt").pixel_values
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


def text_of(made: Preprocess, ids: torch.Tensor) -> str:
    return str(made.tokenizer.decode(ids))


def test_kosmos_text_starts_and_ends_and_is_padded_on_the_right(folder: Path) -> None:
    made = preprocess(folder, "kosmos")
    ids, mask = made.text([" push it ", "lift"])
    assert text_of(made, ids[0]) == "<s><grounding>An image of a robot push it</s>"
    assert text_of(made, ids[1]) == "<s><grounding>An image of a robot lift</s><pad><pad><pad>"
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [ids.shape[1], ids.shape[1] - 3]
    # <grounding> is one token, which the processor adds.
    assert (ids[0] == made.tokenizer.convert_tokens_to_ids("<grounding>")).sum() == 1


def test_paligemma_text_has_a_false_start_and_a_newline(folder: Path) -> None:
    made = preprocess(folder, "paligemma")
    ids, _ = made.text(["push it"])
    assert text_of(made, ids[0]) == "<eos>push it\n"


@pytest.mark.parametrize(("family", "expected"), [("llava", "<s>push it"), ("qwen2_vl", "push it")])
def test_other_texts(folder: Path, family: str, expected: str) -> None:
    made = preprocess(folder, family)
    assert text_of(made, made.text(["push it"])[0][0]) == expected


def test_long_texts_are_cut(folder: Path) -> None:
    made = preprocess(folder, "kosmos")
    ids, mask = made.text(["x" * 600])
    assert ids.shape == (1, 512)
    assert mask.all()
    assert ids[0, -1] == made.tokenizer.eos_token_id


def test_prompts_lose_their_last_id(folder: Path) -> None:
    asked = "Input: What 4 step actions should the robot take to push it?\nOutput: \n</s>"
    kosmos = preprocess(folder, "kosmos")
    ids, _ = kosmos.prompt(["push it"])
    assert text_of(kosmos, ids[0]) == f"<s>{asked}"  # the tokenizer's own end token is gone
    oxe = preprocess(folder, "kosmos", compat=Compat(prompt_steps="n"))
    assert " 3 step " in text_of(oxe, oxe.prompt(["push it"])[0][0])
    llava = preprocess(folder, "llava")
    ids, mask = llava.prompt(["push it", "lift the block"])
    shorter = f"<s>{asked.removesuffix('</s>')}"
    assert text_of(llava, ids[0][mask[0]]) == shorter
    assert mask.sum(1).tolist() == [ids.shape[1] - 7, ids.shape[1]]


def test_a_checkpoint_may_add_tokens(folder: Path) -> None:
    path = folder / "llava"
    backbone = build_backbone(path)
    made = load_tokenizer(path, backbone, {"additional_special_tokens": ["<act>"]})
    assert made("<act>", add_special_tokens=False).input_ids == [made.vocab_size]
    assert made.pad_token == "<pad>"


def test_a_tokenizer_without_padding_gets_some(tmp_path: Path, folder: Path) -> None:
    texts = tiny_vlm.tokenizer("llava")
    texts.pad_token = None
    texts.save_pretrained(tmp_path)
    made = load_tokenizer(tmp_path, build_backbone(folder / "llava"), {})
    assert made.pad_token == "<PAD>"


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path, folder: Path) -> None:
    for family in ("llava", "kosmos"):
        with pytest.raises(CheckpointError, match="expected the model's tokenizer"):
            load_tokenizer(tmp_path, build_backbone(folder / family), {})


def test_pad() -> None:
    ids, mask = pad([[5], [6, 7]], 9)
    assert ids.tolist() == [[5, 9], [6, 7]]
    assert mask.tolist() == [[True, False], [True, True]]
