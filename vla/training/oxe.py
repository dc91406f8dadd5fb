"""Training on Open X-Embodiment: RLDS episodes through the batch transform (`OpenVLADataset`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.data.chunks import get_chunked_episode
from calvin_eval.vla.data.collate import ActionPredictionCollator
from calvin_eval.vla.data.labels import Writer
from calvin_eval.vla.data.rlds import (
    LAYOUTS,
    MIXES,
    Bounds,
    EpisodeLayout,
    RldsEpisode,
    find_records,
    read_episodes,
)
from calvin_eval.vla.data.transform import (
    ORGANISATIONS,
    ActionPredictionTransform,
    SampleLayout,
)
from calvin_eval.vla.preprocess import Preprocess

WINDOWS = {"interleave": ("sliding", False), "segment": ("range", True)}
"""`organize_type` -> form of windows, and whether they may begin before an episode (RoboVLMs)."""


class OxeDataset(Dataset[dict[str, Any]]):
    """Windows of RLDS episodes as samples of twelve entries, see `ActionPredictionTransform`.

    Args:
        episodes: without images.
        bounds: of their actions.
        transform: makes samples.

    Raises:
        UsageError: no episode is long enough.
    """

    def __init__(
        self, episodes: list[RldsEpisode], bounds: Bounds, transform: ActionPredictionTransform
    ) -> None:
        self._episodes, self._transform = episodes, transform
        self._actions = [bounds.apply(episode.actions) for episode in episodes]
        layout = transform.layout
        mode, left = WINDOWS[layout.organise]
        windows = [
            get_chunked_episode(mode, left, layout.window, layout.chunk, np.arange(len(actions)))
            for actions in self._actions
        ]
        self._windows = [
            (which, numbers, mask)
            for which, (rows, masks) in enumerate(windows)
            for numbers, mask in zip(rows, masks, strict=True)
        ]
        if not self._windows:
            raise UsageError(
                f"expected an episode of {layout.window} steps (window_size) or more, found none "
                f"among {len(episodes)}"
            )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Tensor | None]:
        """The twelve entries of a window."""
        which, numbers, mask = self._windows[index]
        episode = self._episodes[which]
        distinct, places = np.unique(numbers, return_inverse=True)
        images = np.stack(episode.images(distinct.tolist()))[places]
        return self._transform(episode.text, self._actions[which][numbers], mask, images)


def oxe_episodes(section: Mapping[str, Any], split: str) -> list[tuple[list[RldsEpisode], float]]:
    """The episodes that a section names, and the weight of each data set.

    Args:
        section: `data_root_dir` (or `data_dir`) and `data_mix`.
        split: "train" or "val".

    Raises:
        UsageError: a data set that is not there, or has no episode with an instruction.
    """
    root, mix = section.get("data_root_dir") or section.get("data_dir"), section.get("data_mix")
    if not root or not mix:
        raise UsageError("OpenVLADataset: expected data_root_dir=FOLDER and data_mix=NAME")
    found = []
    for name, weight in MIXES.get(str(mix), ((str(mix), 1.0),)):
        files = find_records(Path(str(root)), name, split)
        episodes = list(read_episodes(files, LAYOUTS.get(name, EpisodeLayout())))
        if not episodes:
            raise UsageError(f"{files[0].parent}: expected episodes with an instruction")
        found.append((episodes, weight))
    return found


def make_oxe_dataset(
    config: Mapping[str, Any],
    section: Mapping[str, Any],
    preprocess: Preprocess,
    compat: Compat,
    split: str,
) -> Dataset[Any]:
    """The windows of all data sets of a mix, one after the other.

    Raises:
        UsageError: data that is not there, or options that cannot be.
    """
    parts = oxe_episodes(section, split)
    transform = _transform(config, section, preprocess, compat)
    made = [OxeDataset(episodes, Bounds.of_actions(episodes), transform) for episodes, _ in parts]
    return made[0] if len(made) == 1 else ConcatDataset(made)


def _transform(
    config: Mapping[str, Any], section: Mapping[str, Any], preprocess: Preprocess, compat: Compat
) -> ActionPredictionTransform:
    organise = str(section.get("organize_type") or "interleave")
    if organise not in ORGANISATIONS:
        raise UnknownNameError("organize_type", organise, ORGANISATIONS)
    head, actions = dict(config["act_head"]), None
    discrete = head.get("action_space") == "discrete"
    if discrete:
        actions = ActionTokenizer.from_tokenizer(preprocess.tokenizer, head, compat)
    return ActionPredictionTransform(
        layout=SampleLayout(
            window=int(config["window_size"]),
            chunk=int(config["fwd_pred_next_n"]),
            organise=organise,
            discrete=discrete,
        ),
        writer=Writer(
            tokenizer=preprocess.tokenizer, chat=prompts.chat_name(config), actions=actions
        ),
        images=preprocess.resize,
        actions=ActionTransform.from_config(config, compat),
    )


def oxe_collator(preprocess: Preprocess) -> ActionPredictionCollator:
    """What makes batches of such samples."""
    return ActionPredictionCollator(pad_id=preprocess.tokenizer.pad_token_id or 0)
