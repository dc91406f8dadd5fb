"""Small folders in CALVIN's on-disk format; a frame's content follows from its number alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calvin_eval.vla.data.dataset import raw_images

SPANS = ((100, 164), (165, 177), (178, 181))
"""65 frames, as most of CALVIN's annotations have, 13, and 4."""
TEXTS = ("open the drawer", "push the slider left", "turn on the led")
TASKS = ("open_drawer", "move_slider_left", "turn_on_led")


def frame(number: int, *, size: int = 8, noise: bool = False) -> dict[str, Any]:
    """One frame's arrays; `noise` makes images that compress no better than CALVIN's."""
    rng = np.random.default_rng(number)
    actions = np.sin(np.arange(7) * 0.7 + number)
    actions[6] = 1 if number % 3 else -1
    obs = np.cos(np.arange(15) * 0.3 + number)
    static = np.full((size, size, 3), number % 256, np.uint8)
    gripper = np.full((size // 2, size // 2, 3), (2 * number) % 256, np.uint8)
    if noise:
        # Half of the bits are noise: deflate leaves CALVIN's images at about half their size too.
        static = rng.integers(0, 16, (200, 200, 3), np.uint8) + np.uint8(100)
        gripper = rng.integers(0, 16, (84, 84, 3), np.uint8) + np.uint8(100)
    return {
        "rgb_static": static,
        "rgb_gripper": gripper,
        "robot_obs": obs,
        "scene_obs": np.linspace(0, 1, 24) + number,
        "rel_actions": actions,
        "actions": obs[:7],
        "depth_static": rng.random(static.shape[:2], np.float32),
    }


def write_split(
    folder: Path,
    *,
    suffix: str = ".npz",
    spans: Sequence[tuple[int, int]] = SPANS,
    **kinds: Any,
) -> Path:
    """A split with annotations, play sessions and a scene list."""
    folder.mkdir(parents=True, exist_ok=True)
    for first, last in spans:
        for number in range(first, last + 1):
            path = folder / f"episode_{number:07d}{suffix}"
            if suffix == ".npz":
                np.savez_compressed(path, **frame(number, **kinds))
            else:
                path.write_bytes(pickle.dumps(frame(number, **kinds)))
    write_annotations(folder, spans)
    np.save(folder / "ep_start_end_ids.npy", np.array([(spans[0][0], spans[-1][1])]))
    scenes = {f"calvin_scene_{name}": span for name, span in zip("ABC", spans, strict=False)}
    np.save(folder / "scene_info.npy", np.array(scenes, object), allow_pickle=True)
    return folder


def write_annotations(folder: Path, spans: Sequence[tuple[int, int]]) -> None:
    repeats = range(len(spans))
    content = {
        "language": {
            "ann": [TEXTS[i % len(TEXTS)] for i in repeats],
            "task": [TASKS[i % len(TASKS)] for i in repeats],
            "emb": np.zeros((len(spans), 1, 4), np.float32),
        },
        "info": {"episodes": [], "indx": [tuple(span) for span in spans]},
    }
    path = folder / "lang_annotations" / "auto_lang_ann.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.array(content, object), allow_pickle=True)


class ToyTokenizer:
    """One id per character, with start and end ids of its own, or without any.

    Args:
        ends: whether it has an end token (and a start token).
        appends: whether it puts the end token behind a text by itself.
    """

    vocab_size = 2000
    pad_token_id = 1

    def __init__(self, *, ends: bool = True, appends: bool = True) -> None:
        self.bos_token = "<s>" if ends else None
        self.eos_token = "</s>" if ends else None
        self.eos_token_id = 3 if ends else None
        self.special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"} if ends else {}
        self._appends = appends and ends

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        ids: list[int] = []
        for part in text.split("</s>"):
            ids += [ord(letter) + 10 for letter in part] + [3]
        ids = ids[:-1]
        if add_special_tokens and self.bos_token:
            ids = [2, *ids, *([3] if self._appends else [])]
        return SimpleNamespace(input_ids=ids)


def text(sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    ids = torch.arange(len(sentences))[:, None]
    return ids, torch.ones_like(ids)


def slanted(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images in which a shift can be seen."""
    return raw_images(images).float() + torch.arange(images[0].shape[1])
