"""What can be said of recorded frames: sentences, and questions with answers.

Everything follows from the frame's own `robot_obs` and `scene_obs`, so that data sets of others can
be described too. A fact that a state leaves open, such as a drawer half out, is not mentioned.
The file has LLaVA's form: a list of conversations, each about one image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from calvin_eval.files import write_atomic
from calvin_eval.rollouts.recording.store import frame_name
from calvin_eval.sim.symbolic import BLOCKS

CAPTIONS: Final = "captions.json"
EVERY: Final = 8
"""Frames between one that is described and the next."""
FACTS_OF_A_CAPTION: Final = 3

_IMAGE = "<image>\n"
_COLORS: Final = tuple(block.removesuffix("_block") for block in BLOCKS)
_APART = 0.03  # metres by which a block must lead for "nearest" and "leftmost" to be said
_HELD = 0.035  # metres between the tcp and the centre of a block that is held
_EMPTY = 0.012  # width in metres below which nothing is between the fingers
_OPEN = 0.06  # width in metres from which the fingers are called open

Fact = tuple[str, str]
"""Name of a fact and its value, see captions.yaml."""


@cache
def phrases() -> Mapping[str, Any]:
    """The package's own sentences."""
    path = Path(__file__).with_suffix(".yaml")
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


def facts(robot_obs: NDArray[Any], scene_obs: NDArray[Any]) -> list[Fact]:
    """What is certain of a state.

    Args:
        robot_obs: (15,), see docs/simulator.md.
        scene_obs: (24,).
    """
    slide, drawer = float(scene_obs[0]), float(scene_obs[1])
    found: list[Fact | None] = [
        _of("drawer", {"open": drawer > 0.15, "closed": drawer < 0.02}),
        _of("slider", {"left": slide > 0.24, "right": slide < 0.04}),
        _of("lightbulb", {"lit": scene_obs[4] > 0.5, "dark": scene_obs[4] <= 0.5}),
        _of("led", {"lit": scene_obs[5] > 0.5, "dark": scene_obs[5] <= 0.5}),
    ]
    places = np.asarray(scene_obs, float)[6:].reshape(3, 6)[:, :3]
    apart = np.linalg.norm(places - np.asarray(robot_obs, float)[:3], axis=1)
    width, commanded = float(robot_obs[6]), float(robot_obs[14])
    between = commanded < 0 and width > _EMPTY
    found += [
        _of("gripper", {
            "open": commanded > 0 and width > _OPEN,
            "closed": commanded < 0 and width <= _EMPTY,
            "holding": between and float(apart.min()) < _HELD,
        }),
        _first("nearest", apart),
        _first("leftmost", places[:, 0]),
        _first("rightmost", -places[:, 0]),
    ]  # fmt: skip
    return [fact for fact in found if fact is not None]


def _of(name: str, values: Mapping[str, Any]) -> Fact | None:
    return next(((name, value) for value, true in values.items() if true), None)


def _first(name: str, numbers: NDArray[Any]) -> Fact | None:
    """The colour with the smallest number, if it leads clearly."""
    order = np.argsort(numbers)
    if numbers[order[1]] - numbers[order[0]] < _APART:
        return None
    return name, _COLORS[int(order[0])]


def conversations(
    image: str, known: Sequence[Fact], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """A caption, and one question with its answer, about a frame.

    Args:
        image: name of the frame's file.
        known: what is certain.
        rng: of the choice of facts and words.
    """
    if not known:
        return
    said = phrases()
    some = [known[i] for i in rng.permutation(len(known))[:FACTS_OF_A_CAPTION]]
    caption = ", and ".join(_pick(said["facts"][n]["values"][v], rng) for n, v in some)
    yield _entry(image, "caption", _pick(said["requests"], rng), caption)
    name, value = known[int(rng.integers(len(known)))]
    fact = said["facts"][name]
    yield _entry(
        image, "question", _pick(fact["questions"], rng), _pick(fact["values"][value], rng)
    )


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return str(choices[int(rng.integers(len(choices)))])


def _entry(image: str, kind: str, asked: str, answer: str) -> dict[str, Any]:
    return {
        "id": f"{image.removesuffix('.npz')}-{kind}",
        "image": image,
        "kind": kind,
        "conversations": [
            {"from": "human", "value": f"{_IMAGE}{asked}"},
            {"from": "gpt", "value": answer},
        ],
    }


def write_captions(folder: Path, count: int, seed: Sequence[int], every: int = EVERY) -> int:
    """Describe every so many frames of a split; returns how many conversations there are.

    Args:
        folder: of the split.
        count: of its frames, numbered from 0.
        seed: of the words, together with the frame's number.
        every: frames from one to the next.
    """
    found: list[dict[str, Any]] = []
    for index in range(0, count, every):
        with np.load(folder / frame_name(index)) as frame:
            known = facts(frame["robot_obs"], frame["scene_obs"])
        rng = np.random.default_rng((*seed, index))
        found += conversations(frame_name(index), known, rng)
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in found) + "\n]\n"
    write_atomic(folder / CAPTIONS, text.encode())
    return len(found)
