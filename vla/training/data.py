"""From a project configuration to batches.

    loader = make_loader(config, preprocess, "train")
    loader.batch_sampler.start(epoch=0, done=0)
    for batch in loader: ...

Keys read: `batch_size`, `num_workers`, `seed`, `window_size`, `fwd_pred_next_n`, `use_hand_rgb`,
those of the actions (see `ActionTransform.from_config`), and the sections `train_dataset` and
`val_dataset`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.data.annotations import (
    ACTORS,
    Segment,
    acted_by_expert,
    choose,
    read_language,
    read_pairs,
    read_scenes,
)
from calvin_eval.vla.data.augment import RandomShift
from calvin_eval.vla.data.collate import Batch, CalvinCollator
from calvin_eval.vla.data.dataset import CalvinDataset, ReadOptions
from calvin_eval.vla.data.labels import Writer
from calvin_eval.vla.data.memory import Watch, keep_in_memory
from calvin_eval.vla.forward_head import TYPE as FORWARD
from calvin_eval.vla.mixture import OXE
from calvin_eval.vla.own_code import ADAPTER, own_part
from calvin_eval.vla.preprocess import Preprocess
from calvin_eval.vla.training.oxe import make_oxe_dataset, oxe_collator

SECTIONS = {"train": "train_dataset", "val": "val_dataset"}
IMAGES, LATER = ("rgb", "hand_rgb"), ("fwd_rgb_chunck", "fwd_hand_rgb_chunck")


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process takes.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


class Batches(Sampler[list[int]]):
    """Which samples are in which batch: a function of seed and epoch alone.

    So a training that is stopped and resumed sees what one that runs through sees.

    Args:
        samples: how many there are.
        size: of a batch, per process; fewer if there are fewer samples.
        seed: of the order.
        share: of this process.
        keep_last: whether a smaller last batch counts; never with several processes.

    Raises:
        UsageError: fewer samples than processes.
    """

    def __init__(
        self, samples: int, size: int, *, seed: int, share: Share, keep_last: bool = False
    ) -> None:
        self._samples, self._seed, self._share = samples, seed, share
        self._size = min(size, samples // share.world)
        if not self._size:
            raise UsageError(f"expected a sample for each of {share.world} processes: {samples}")
        self._keep_last = keep_last and share.world == 1
        self._epoch = self._done = 0

    def start(self, epoch: int, done: int = 0) -> None:
        """Choose the epoch, and how many of its batches are left out at its start."""
        self._epoch, self._done = epoch, done

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._samples // self._size) if self._keep_last else self._samples // self._all

    @property
    def _all(self) -> int:
        return self._size * self._share.world

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._samples)
        for batch in range(self._done, len(self)):
            first = batch * self._all + self._share.rank * self._size
            yield order[first : first + self._size].tolist()


@dataclass(frozen=True)
class Collate:
    """Samples with resized uint8 images to a batch with a network's images.

    Shifting before or after normalising is the same, and so images travel from workers in a
    quarter of the bytes.

    Attributes:
        collate: makes the batch.
        normalize: uint8 images to a network's.
        later: whether the images to come are made for the network too.
    """

    collate: Callable[[Sequence[Any]], Batch]
    normalize: Callable[[Tensor], Tensor]
    later: bool = False

    def __call__(self, samples: Sequence[Any]) -> Batch:
        """See `CalvinCollator`."""
        batch = self.collate(samples)
        keys = (*IMAGES, *LATER) if self.later else IMAGES
        made = {key: self.normalize(batch[key]) for key in keys if batch[key] is not None}
        return {**batch, **made}


def make_loader(
    config: Mapping[str, Any],
    preprocess: Preprocess,
    split: str,
    *,
    share: Share | None = None,
    watch: Watch | None = None,
) -> DataLoader[Any]:
    """Batches of a split, see `CalvinCollator`. Its `batch_sampler` chooses the epoch.

    Args:
        config: the project configuration.
        preprocess: of the model.
        split: "train", with shifts and in another order each epoch; or "val".
        share: of this process; all if None.
        watch: called with how far the reading of frames is, with a cache.

    Raises:
        UsageError: data that is not there, or options that cannot be.
    """
    if split not in SECTIONS:
        raise UnknownNameError("split", split, SECTIONS)
    dataset = make_dataset(config, preprocess, split)
    if _cached(config, split):
        keep_in_memory(dataset, preprocess.resize, watch)
    seed, size = int(config.get("seed", 0)), int(config["batch_size"])
    batches = Batches(
        len(dataset), size, seed=seed, share=share or Share(), keep_last=split == "val"
    )
    workers = number_of_workers(config, split)
    oxe = config[SECTIONS[split]].get("type") == OXE
    collate: Any = oxe_collator(preprocess) if oxe else _collator(config, preprocess)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=Collate(collate, preprocess.normalize, foresees(config)),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Without one of its own every epoch would take a number from torch's global generator.
        generator=torch.Generator().manual_seed(seed),
    )


def make_dataset(config: Mapping[str, Any], preprocess: Preprocess, split: str) -> Any:
    """The windows of a split, with resized uint8 images: a `CalvinDataset`, or the user's own.

    Raises:
        UsageError: data that is not there, or options that cannot be.
    """
    section = config[SECTIONS[split]]
    if section.get("type") == OXE:
        return make_oxe_dataset(config, section, preprocess, training_compat(config), split)
    cameras = ("rgb_static", "rgb_gripper") if config.get("use_hand_rgb") else ("rgb_static",)
    if section.get(ADAPTER):
        key = f"{SECTIONS[split]}.{ADAPTER}"
        made = own_part(str(section[ADAPTER]), key, ("__len__", "__getitem__"))
        return made(
            folder=Path(str(section["data_dir"])),
            split=split,
            window=int(config["window_size"]),
            chunk=int(config["fwd_pred_next_n"]),
            cameras=cameras,
            images=preprocess.resize,
        )
    shifts = {}
    if split == "train":
        given = {key: value for key, value in section.items() if value is not None}
        pads = {"rgb_static": "rgb_pad", "rgb_gripper": "gripper_pad"}
        shifts = {name: RandomShift.from_config(given, pads[name]) for name in cameras}
    folder = Path(str(section["data_dir"]))
    return CalvinDataset(
        folder,
        ReadOptions(
            window=int(config["window_size"]),
            chunk=int(config["fwd_pred_next_n"]),
            skip=int(section.get("skip_frames", 1)),
            cameras=cameras,
            future_images=foresees(config),
            seed=int(config.get("seed", 0)),
        ),
        segments=choose_segments(folder, section),
        images=preprocess.resize,
        shifts=shifts,
    )


def choose_segments(folder: Path, section: Mapping[str, Any]) -> list[Segment]:
    """The annotated segments that a section asks for.

    Args:
        folder: of the split.
        section: `tasks`, `exclude_tasks`, `scenes`, `pairs`, `acted`.

    Raises:
        UsageError: no annotations, or nothing is left.
        UnknownNameError: a task or a scene that the split does not have, or no such choice.
    """
    acted = section.get("acted") or ACTORS[0]
    if acted not in ACTORS:
        raise UnknownNameError("acted", str(acted), ACTORS)
    segments = read_language(folder)
    known = sorted({segment.task for segment in segments})
    wanted, without = section.get("tasks"), section.get("exclude_tasks") or ()
    for task in (*(wanted or ()), *without):
        if task not in known:
            raise UnknownNameError("task", task, known)
    pairs, scenes = section.get("pairs"), section.get("scenes")
    kept = choose(
        segments,
        pairs=None if pairs is None else read_pairs(Path(pairs)),
        exclude=[task for task in known if wanted and task not in wanted] + list(without),
        scenes=None if scenes is None else read_scenes(folder),
        only=scenes,
    )
    if acted == "expert":
        kept = acted_by_expert(kept, folder)
    if not kept:
        raise UsageError(f"{folder}: none of {len(segments)} annotated segments is left")
    return kept


def number_of_workers(config: Mapping[str, Any], split: str) -> int:
    """Processes that make samples: as configured, else none with a cache or on two cores."""
    given = config.get("num_workers")
    if given is not None:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if _cached(config, split) or (cores or 1) <= 2 else min((cores or 1) - 1, 4)


def foresees(config: Mapping[str, Any]) -> bool:
    """Whether a training predicts images to come, and so must read them."""
    named = (config.get("fwd_head") or {}).get("type") == FORWARD
    learned = bool((config.get("train_setup") or {}).get("predict_forward"))
    return named and learned and not config.get("use_mim_obs_loss")


def training_compat(config: Mapping[str, Any]) -> Compat:
    """The compatibility options that a project configuration trains with.

    Raises:
        UnknownNameError: an option or a value that does not exist.
    """
    return Compat.from_options(config.get("compat") or {})


def _cached(config: Mapping[str, Any], split: str) -> bool:
    section = config[SECTIONS[split]]
    if section.get(ADAPTER) or section.get("type") == OXE:
        return False  # its frames are its own affair
    asked = section.get("cache")
    return bool(config["train_dataset"].get("cache") if asked is None else asked)


def _collator(config: Mapping[str, Any], preprocess: Preprocess) -> CalvinCollator:
    compat, head, writer = training_compat(config), dict(config["act_head"]), None
    if head.get("action_space") == "discrete":
        actions = ActionTokenizer.from_tokenizer(preprocess.tokenizer, head, compat)
        writer = Writer(
            tokenizer=preprocess.tokenizer,
            chat=prompts.chat_name(config),
            actions=actions,
            prompt_steps=compat.prompt_steps,
            predict_stop=config["train_dataset"].get("predict_stop_token") is not False,
        )
    return CalvinCollator(
        window=int(config["window_size"]),
        chunk=int(config["fwd_pred_next_n"]),
        text=preprocess.text,
        actions=ActionTransform.from_config(config, compat),
        writer=writer,
        state=bool(config.get("use_state")) and compat.state_token == "fed",
        tcp_labels=True,  # evaluation turns what the model says from the TCP frame to the world
    )
