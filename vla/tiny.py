"""A vision-language model of a few million weights, to train from nothing on two CPU cores.

It is SmolVLM's architecture at the smallest size that still finds a gripper and a handle in
CALVIN's images. Its tokenizer is made from the sentences that it will read; other words are
spelled with their bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import UsageError

VOCABULARY = 1024
"""Entries of the embedding matrix; more than the words need, so that 256 can be action ids."""

BOS, EOS, PAD = "<|im_start|>", "<end_of_utterance>", "<pad>"

SIZES: Mapping[str, int] = {
    "image_size": 96,  # pixels, both cameras
    "patch_size": 12,  # pixels
    "scale_factor": 2,  # patches per token, along each side
    "vision_width": 128,
    "vision_layers": 3,
    "text_width": 128,
    "text_layers": 3,
    "heads": 4,
}


def write_tiny(folder: Path, texts: Iterable[str], **sizes: int) -> Path:
    """Write the model's folder: configuration, image processor and tokenizer, no weights.

    Args:
        folder: made if it does not exist.
        texts: sentences that the tokenizer is made from; their order does not matter.
        sizes: other values of `SIZES`.

    Returns:
        The folder.

    Raises:
        UsageError: a size that does not exist, or no text.
    """
    if unknown := set(sizes) - set(SIZES):
        raise UsageError(
            f"expected sizes among {', '.join(SIZES)}, found {', '.join(sorted(unknown))}"
        )
    from transformers import AutoConfig, SiglipImageProcessorPil

    size = {**SIZES, **sizes}
    tokenizer = make_tokenizer(texts)
    folder.mkdir(parents=True, exist_ok=True)
    AutoConfig.for_model("smolvlm", **_config(size, tokenizer)).save_pretrained(folder)
    side = {"height": size["image_size"], "width": size["image_size"]}
    # Not the 384 pixels and tiles of the published model: one small whole image.
    SiglipImageProcessorPil(size=side, resample=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(size: Mapping[str, int], tokenizer: Any) -> dict[str, Any]:
    text = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": size["text_width"],
        "intermediate_size": 3 * size["text_width"],
        "num_hidden_layers": size["text_layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["heads"],
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "smolvlm_vision",
        "image_size": size["image_size"],
        "patch_size": size["patch_size"],
        "hidden_size": size["vision_width"],
        "intermediate_size": 3 * size["vision_width"],
        "num_hidden_layers": size["vision_layers"],
        "num_attention_heads": size["heads"],
    }
    return {
        "text_config": text,
        "vision_config": vision,
        "scale_factor": size["scale_factor"],
        "image_token_id": VOCABULARY - 1,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def make_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer of at most half of `VOCABULARY` entries.

    The upper half stays free for action ids, so that no word is overwritten by one.

    Args:
        texts: what its merges are learned from.

    Raises:
        UsageError: no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    distinct = sorted({text.strip() for text in texts} - {""})
    if not distinct:
        raise UsageError("expected sentences to make a tokenizer from, found none")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY // 2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(distinct, trainer)
    words = json.loads(trained.to_str())["model"]
    # Action ids count down from the end of what the tokenizer itself calls its vocabulary.
    vocab = {
        **words["vocab"],
        **{f"<unused{i}>": i for i in range(len(words["vocab"]), VOCABULARY)},
    }
    made = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(pair) for pair in words["merges"]]))
    made.pre_tokenizer = trained.pre_tokenizer
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])]
    )
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=made, bos_token=BOS, eos_token=EOS, pad_token=PAD)
