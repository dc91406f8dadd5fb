"""Tiny vision-language models of the real transformers classes, saved as folders.

`save_vlm(folder, family)` writes what a downloaded model has: `config.json`, the tokenizer and the
image processor; `save_weights=True` adds random weights. `project(family, ...)` is the
configuration that RoboVLMs saves beside a checkpoint of it.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Kosmos2Processor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

HIDDEN = 32
FILLERS = 400
"""Tokens without a text, so that 256 action ids fit under the special tokens."""

SPECIALS: dict[str, dict[str, str]] = {
    "kosmos": {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "paligemma": {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
    "llava": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "llava_mpt": {"bos_token": "<end>", "eos_token": "<end>", "pad_token": "<pad>"},
    "qwen2_vl": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    "qwen2_5_vl": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    "idefics3": {"bos_token": "<|begin_of_text|>", "eos_token": "<end>", "pad_token": "<pad>"},
    "smolvlm": {"bos_token": "<|im_start|>", "eos_token": "<end>", "pad_token": "<pad>"},
}
FAMILIES = tuple(SPECIALS)
SPECIALS["flamingo"] = {"eos_token": "<|endoftext|>"}
"""Its words look at images by cross attention: no member of FAMILIES."""
ROBOVLM_NAMES = {"kosmos": "RoboKosMos", "paligemma": "RoboPaligemma", "llava": "RoboLLaVA",
                 "llava_mpt": "RoboLLaVA", "flamingo": "RoboFlamingo"}  # fmt: skip
OWN = ("llava_mpt", "flamingo")
"""Families that transformers does not have."""
IMAGE_SIZE = {"qwen2_vl": 56, "qwen2_5_vl": 56}
"""Side of the images in pixels, where it is not 28."""


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per byte, the family's special tokens, and fillers."""
    specials = SPECIALS[family]
    vocab: dict[str, int] = {}
    texts = (*specials.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()))
    for text in (*texts, *(f"<filler{i}>" for i in range(FILLERS))):
        vocab[text] = len(vocab)
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    bos, eos = specials.get("bos_token"), specials["eos_token"]
    single = {"kosmos": f"{bos} $A {eos}", "qwen2_vl": "$A", "qwen2_5_vl": "$A", "flamingo": "$A"}
    made.post_processor = processors.TemplateProcessing(
        single=single.get(family, f"{bos} $A"),
        special_tokens=[(text, vocab[text]) for text in (bos, eos) if text],
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **specials)


def text_config(**values: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 1000,
        "max_position_embeddings": 2048, **values,
    }  # fmt: skip


def vision_config(**values: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, **values,
    }  # fmt: skip


def _kosmos() -> dict[str, Any]:
    text = {
        "vocab_size": 1000, "embed_dim": HIDDEN, "layers": 2, "ffn_dim": 64, "attention_heads": 2,
        "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "dropout": 0.0, "attention_dropout": 0.0,
    }  # fmt: skip
    return {
        "model_type": "kosmos-2", "text_config": text, "vision_config": vision_config(),
        "latent_query_num": 5,
    }  # fmt: skip


def _paligemma() -> dict[str, Any]:
    vision = vision_config(model_type="siglip_vision_model", vision_use_head=False)
    text = text_config(model_type="gemma", head_dim=16, num_image_tokens=4)
    return {
        "model_type": "paligemma", "text_config": text, "vision_config": vision,
        "hidden_size": HIDDEN, "projection_dim": HIDDEN, "image_token_index": 999,
        "pad_token_id": 0,
    }  # fmt: skip


def _llava() -> dict[str, Any]:
    return {
        "model_type": "llava", "text_config": text_config(model_type="llama"),
        "vision_config": vision_config(model_type="clip_vision_model", projection_dim=HIDDEN),
        "image_token_index": 999, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip


def _llava_mpt() -> dict[str, Any]:
    return {
        "model_type": "llava_mpt", "d_model": HIDDEN, "n_heads": 2, "n_layers": 2,
        "vocab_size": 1000, "max_seq_len": 512, "mm_vision_tower": "clip", "mm_hidden_size": 24,
        "mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu",
    }  # fmt: skip


def _flamingo() -> dict[str, Any]:
    sizes = {"width": 24, "layers": 2, "heads": 2, "patch": 14, "image": 28, "out": 16}
    return {
        "model_type": "mosaic_gpt", "d_model": HIDDEN, "n_heads": 2, "n_layers": 3,
        "vocab_size": 1000, "max_seq_len": 512, "attn_qk_ln": True, "vision_sizes": sizes,
    }  # fmt: skip


def _qwen2_vl() -> dict[str, Any]:
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2, "num_heads": 2,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    return {
        "model_type": "qwen2_vl", **text_config(rope_scaling=rope, rope_theta=1e6),
        "vision_config": vision, "vision_start_token_id": 990, "vision_end_token_id": 991,
        "image_token_id": 992, "video_token_id": 993,
    }  # fmt: skip


def _qwen2_5_vl() -> dict[str, Any]:
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 64,
        "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "in_chans": 3, "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return {**_qwen2_vl(), "model_type": "qwen2_5_vl", "vision_config": vision}


def _idefics3() -> dict[str, Any]:
    return {
        "model_type": "idefics3", "text_config": text_config(model_type="llama", pad_token_id=2),
        "vision_config": vision_config(model_type="idefics3_vision"), "scale_factor": 2,
        "image_token_id": 999,
    }  # fmt: skip


def _smolvlm() -> dict[str, Any]:
    vision = vision_config(model_type="smolvlm_vision")
    return {**_idefics3(), "model_type": "smolvlm", "vision_config": vision}


CONFIGS = {
    "kosmos": _kosmos, "paligemma": _paligemma, "llava": _llava, "llava_mpt": _llava_mpt,
    "flamingo": _flamingo, "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl, "idefics3": _idefics3, "smolvlm": _smolvlm,
}  # fmt: skip


def save_vlm(folder: Path, family: str, *, save_weights: bool = False) -> Path:
    """Write one family's tiny model to a folder and return the folder."""
    values = CONFIGS[family]()
    if family in OWN:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
        clip = vision_config(projection_dim=HIDDEN)
        AutoConfig.for_model("clip_vision_model", **clip).save_pretrained(folder / "clip")
    else:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        config.save_pretrained(folder)
        if save_weights:
            torch.manual_seed(0)
            AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    texts = tokenizer(family)
    if family == "kosmos":
        images = CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False)
        Kosmos2Processor(images, texts, num_patch_index_tokens=4).save_pretrained(folder)
    elif family == "paligemma":
        siglip = SiglipImageProcessorPil(size={"height": 28, "width": 28})
        siglip.image_seq_length = 4  # type: ignore[attr-defined]
        PaliGemmaProcessor(siglip, texts).save_pretrained(folder)
    else:
        texts.save_pretrained(folder)
    return folder


@torch.no_grad()
def set_weights(model: torch.nn.Module) -> None:
    """Weights from their names alone: the same on every machine, and everything matters."""
    for name, parameter in model.named_parameters():
        wave = wave_like(parameter.shape, zlib.crc32(name.encode()) % 1000)
        if parameter.dim() > 1:
            parameter.copy_(wave * (2 / parameter[0].numel()) ** 0.5)
        elif name == "action_token" or "class_embedding" in name:
            parameter.copy_(wave)


def wave_like(shape: torch.Size | tuple[int, ...], offset: float) -> torch.Tensor:
    """Numbers in [-1, 1] without a pattern that a network could cancel."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(index**2 * 0.37 + index + offset).float().reshape(shape)


def project(family: str, **values: Any) -> dict[str, Any]:
    """The project JSON of a checkpoint, as RoboVLMs writes it; `values` are laid over it.

    `act_head` is laid over key by key.
    """
    head = {
        "type": "LSTMDecoder", "hidden_size": 16, "action_dim": 7, "down_sample": "none",
        "latent": 1, "fwd_pred_next_n": 1, "window_size": 1, "action_space": "continuous",
        "with_history": True, "history_type": "post", **values.pop("act_head", {}),
    }  # fmt: skip
    processor = family in ("kosmos", "paligemma")
    return {
        "robovlm_name": ROBOVLM_NAMES.get(family, "RoboVLM"),
        "model": family.removesuffix("_mpt"), "seq_len": 1,
        "image_size": IMAGE_SIZE.get(family, 28), "window_size": 4, "fwd_pred_next_n": 3,
        "use_hand_rgb": True, "act_head": head, "act_encoder": None, "fwd_head": None,
        "use_vision_resampler": False, "norm_action": True, "norm_min": -0.65, "norm_max": 0.65,
        "train_setup": {"predict_action": True, "lora_enable": False},
        "trainer": {"precision": "16"},
        "tokenizer": {
            "type": "AutoProcessor" if processor else "AutoTokenizer",
            "pretrained_model_name_or_path": f".vlms/{family}", "max_text_len": 256,
            "additional_special_tokens": None,
        },
        "vlm": {
            "type": "AutoModelForVision2Seq", "name": family,
            "pretrained_model_name_or_path": f".vlms/{family}",
        },
        "val_dataset": {"data_dir": "datasets/task_ABCD_D/validation"},
        **values,
    }  # fmt: skip
