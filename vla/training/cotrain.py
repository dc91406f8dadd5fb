"""The loader of a training: of one data set, or of several that take turns by weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from calvin_eval.errors import UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.data.labels import Writer
from calvin_eval.vla.data.language import (
    CAPTION,
    CONVERSATION,
    FILE,
    Conversation,
    LanguageCollator,
    LanguageDataset,
    read_conversations,
)
from calvin_eval.vla.data.memory import Watch
from calvin_eval.vla.mixture import ACTIONS, CAPTIONS, OXE
from calvin_eval.vla.preprocess import Preprocess
from calvin_eval.vla.training.data import Batches, Collate, Share, make_loader
from calvin_eval.vla.training.mixing import MixedLoader


def make_training_loader(
    config: Mapping[str, Any],
    preprocess: Preprocess,
    *,
    share: Share | None = None,
    watch: Watch | None = None,
) -> Any:
    """Batches to train on; its `batch_sampler` chooses the epoch.

    Args:
        config: the project configuration, with the data sets of `cotrain` and their `weights`.
        preprocess: of the model.
        share: of this process; all if None.
        watch: called with how far the reading of frames is, with a cache.

    Returns:
        A `DataLoader`, or with `cotrain` a `MixedLoader`.

    Raises:
        UsageError: data that is not there, or options that cannot be.
    """
    loaders = [make_loader(config, preprocess, "train", share=share, watch=watch)]
    for section in config.get("cotrain") or []:
        own = {key: section[key] for key in ("batch_size", "num_workers") if key in section}
        if section["type"] in (ACTIONS, OXE):
            here = {**config, **own, "train_dataset": {**config["train_dataset"], **section}}
            loaders.append(make_loader(here, preprocess, "train", share=share, watch=watch))
        else:
            loaders.append(_language_loader({**config, **own}, preprocess, section, share))
    if len(loaders) == 1:
        return loaders[0]
    return MixedLoader(loaders, config.get("weights"), int(config.get("seed", 0)))


def section_conversations(section: Mapping[str, Any]) -> list[Conversation]:
    """What a section of `cotrain` with sentences names: its files, or `captions.json` of a folder.

    Raises:
        UsageError: a file that cannot be read, or none of the kind.
    """
    folder = section.get("image_folder") or section.get("data_dir")
    place = None if folder is None else Path(str(folder))
    paths = section.get("data_paths") or [Path(str(section["data_dir"])) / FILE]
    found = [
        entry
        for path in ([paths] if isinstance(paths, str) else paths)
        for entry in read_conversations(
            Path(str(path)), folder=place, kind="caption" if section["type"] == CAPTIONS else None
        )
    ]
    if not found:
        raise UsageError(f"{', '.join(map(str, paths))}: expected captions, found none")
    return found


def _language_loader(
    config: Mapping[str, Any], preprocess: Preprocess, section: Mapping[str, Any],
    share: Share | None,
) -> DataLoader[Any]:  # fmt: skip
    source = CAPTION if section["type"] == CAPTIONS else CONVERSATION
    tokenizer, seed = preprocess.tokenizer, int(config.get("seed", 0))
    writer = Writer(tokenizer=tokenizer, chat=prompts.chat_name(config))
    dataset = LanguageDataset(
        section_conversations(section), writer, preprocess.resize, source=source
    )
    batches = Batches(len(dataset), int(config["batch_size"]), seed=seed, share=share or Share())
    workers = int(config.get("num_workers") or 0)
    collate: Any = LanguageCollator(pad_id=tokenizer.pad_token_id or 0, source=source)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=Collate(collate, preprocess.normalize),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )
