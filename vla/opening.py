"""From a RoboVLMs configuration to batches, model and policy in one call.

project = open_project("configs/kosmos_ph.json", vlm=".vlms/kosmos", data="data/task_ABC_D")
loader = project.loader("train")
arm, gripper = project.model.act_head(project.model.features(...))
project.policy.act(requests)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from calvin_eval.errors import UsageError
from calvin_eval.vla.checkpoint import find_checkpoint, load_into, read_weights
from calvin_eval.vla.config import Config, find_vlm, read_compat
from calvin_eval.vla.loading import declare
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.own_code import configured
from calvin_eval.vla.policy import RoboVLMsPolicy
from calvin_eval.vla.training.cotrain import make_training_loader
from calvin_eval.vla.training.data import SECTIONS, make_loader
from calvin_eval.vla.training.project import build_model
from calvin_eval.wrappers.loaders import wrap
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source
from calvin_eval.wrappers.loaders.folders import is_zero
from calvin_eval.wrappers.policy import BasePolicy

SPLIT_FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class OpenProject:
    """A configuration with its model; batches and the policy are made on request.

    Attributes:
        config: the configuration, parents merged, with the data's folders in it.
        model: with weights from the checkpoint; else the vision-language model's own where its
            folder has them, and random ones. In evaluation mode; a training calls `train()`.
        source: what was asked for.
    """

    config: Config
    model: RoboVLM
    source: Source

    def loader(self, split: str = "train") -> Any:
        """Batches of a split, "train" or "val", in RoboVLMs' form: a `DataLoader`.

        Its `batch_sampler.start(epoch=0, done=0)` chooses the epoch and how many batches of it
        are over.

        Raises:
            UsageError: no data, or options that cannot be.
        """
        section = self.config.values.get(SECTIONS.get(split, ""))
        if section is not None and not (section or {}).get("data_dir"):
            raise UsageError(f"loader({split!r}): expected open_project(..., data=FOLDER)")
        parts = self.config.values, self.model.preprocess
        return make_training_loader(*parts) if split == "train" else make_loader(*parts, split)

    @cached_property
    def policy(self) -> BasePolicy:
        """The model between its stages, as an evaluation has it; the same weights."""
        observe, actions = declare(self.source)
        compat = read_compat(self.source, self.config)
        policy = RoboVLMsPolicy(
            self.model, self.config, pre_select=compat.pre_select, max_batch=None
        )
        loaded = LoadedPolicy(
            policy=policy,
            kind="robovlms",
            description=f"RoboVLMs policy of {self.config.path}",
            metadata=self.source.metadata("robovlms"),
            observe=observe,
            actions=actions,
        )
        return wrap(loaded, {}, {}).policy


def open_project(
    config: str | Path,
    *,
    vlm: str | Path | None = None,
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
) -> OpenProject:
    """Build the model of a RoboVLMs configuration, ready for training or evaluation.

    Args:
        config: the JSON file; its parents are merged in.
        vlm: folder of the vision-language model; the configuration's own path if None.
        data: a data set in CALVIN's format with `training` and `validation`; the folders that
            the configuration names if None.
        checkpoint: a file or folder of weights, of which the head's must be there; if None they
            are the vision-language model's own, where its folder has them, and random ones.
        device: where the model is put.

    Raises:
        CheckpointError: something is missing or not built.
        UsageError: a value that cannot be.
    """
    options = {"config": str(config), **({} if vlm is None else {"vlm": str(vlm)})}
    source = Source(ckpt=str(checkpoint or config), options=options)
    declare(source)
    found = configured(source)
    folder = find_vlm(found, options.get("vlm"))
    values = _with_data(found.values, data)
    section = {**values["vlm"], "source": str(folder), "from_scratch": True}
    model = build_model({**values, "vlm": section}, folder)
    if checkpoint is not None:
        path = Path(checkpoint)
        if path.is_dir() and not is_zero(path):
            path = find_checkpoint(path)
        load_into(model, read_weights(path), required=sorted(model.required_keys()), vlm=folder)
    model.to(torch.device(device)).eval()
    return OpenProject(Config(found.path, values, found.files), model, source)


def _with_data(values: Mapping[str, Any], data: str | Path | None) -> dict[str, Any]:
    """The configuration with a data set's folders."""
    made = dict(values)
    for split, key in SECTIONS.items():
        section = made.get(key) or {}
        if not isinstance(section, Mapping):
            raise UsageError(f"{key}: expected one data set, found {type(section).__name__}")
        place = {} if data is None else {"data_dir": str(Path(data) / SPLIT_FOLDERS[split])}
        made[key] = {**section, **place}
    made.setdefault("batch_size", 1)
    return made
