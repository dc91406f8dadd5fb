"""Episodes of Open X-Embodiment: RLDS data sets as TensorFlow Datasets writes them, without it.

A data set is `NAME/VERSION/` with files `*-train.tfrecord-00000-of-00128`; a record is an episode,
whose arrays of all steps lie behind one another under names such as `steps/action`. What the names
are, and what their numbers mean, differs from data set to data set (OpenVLA, oxe configs and
transforms): `LAYOUTS` has those that RoboVLMs' configurations fine-tune on, and anything else
must have actions of seven numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.tfrecord import Feature, Place, parse_example, read_record, records

MOST_PIXELS = 1 << 24
"""Of an image."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLayout:
    """Names in an episode.

    Attributes:
        actions: arrays that make up an action of seven numbers, the gripper's last.
        image: of the main camera.
        texts: of the instruction; the first that is there counts.
        gripper: how the last number becomes 1 (open) or 0, see `_GRIPPERS`.
        state: of the arm, of which the first six numbers count; if it is named, the first step is
            left out and an action is the difference to the next state, as OpenVLA reads Bridge.
    """

    actions: tuple[str, ...] = ("steps/action",)
    image: tuple[str, ...] = (
        "steps/observation/image", "steps/observation/image_0", "steps/observation/rgb_static",
    )  # fmt: skip
    texts: tuple[str, ...] = (
        "steps/language_instruction", "steps/observation/natural_language_instruction",
    )  # fmt: skip
    gripper: str = "open"
    state: str = ""


_PARTS = ("steps/action/world_vector", "steps/action/rotation_delta")
LAYOUTS: Mapping[str, EpisodeLayout] = {
    "fractal20220817_data": EpisodeLayout(
        actions=(*_PARTS, "steps/action/gripper_closedness_action"), gripper="closing"
    ),
    "bridge_oxe": EpisodeLayout(
        actions=(*_PARTS, "steps/action/open_gripper"), state="steps/observation/state"
    ),
    "bridge_orig": EpisodeLayout(gripper="settled", state="steps/observation/state"),
}
"""Data set -> its layout."""

MIXES: Mapping[str, tuple[tuple[str, float], ...]] = {
    "bridge": (("bridge_oxe", 1.0),),
    "rt_1": (("fractal20220817_data", 1.0),),
    "bridge_rt_1": (("bridge_oxe", 1.0), ("fractal20220817_data", 1.0)),
}
"""`data_mix` -> data sets and weights (OpenVLA, mixtures). Another name is a data set's own."""


@dataclass(frozen=True)
class RldsEpisode:
    """An episode without its images.

    Attributes:
        place: its record.
        layout: of it.
        actions: (T, 7) float32, not normalised; gripper 1 (open) or 0.
        text: its instruction.
        first: which of the record's steps is the first of these.
    """

    place: Place
    layout: EpisodeLayout
    actions: NDArray[np.float32]
    text: str
    first: int = 0

    def images(self, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Images (H, W, 3) of some steps.

        Raises:
            UsageError: the record has none, or one that cannot be read.
        """
        content = parse_example(read_record(self.place), self.layout.image)
        packed = _first(content, self.layout.image, self.place)
        if not isinstance(packed, list) or len(packed) < self.first + len(self.actions):
            raise UsageError(
                f"{self.place.path}: expected {len(self.actions)} encoded images under "
                f"{' or '.join(self.layout.image)}"
            )
        return [_image(packed[self.first + number], self.place) for number in numbers]


def find_records(root: Path, name: str, split: str) -> list[Path]:
    """The files of a data set's split, of its newest version.

    Args:
        root: folder with the data sets.
        name: of one.
        split: "train" or "val".

    Raises:
        UsageError: there are none.
    """
    folder = root / name
    places = [p for p in (*sorted(folder.glob("*/"), key=_version, reverse=True), folder) if p]
    for place in places:
        found = sorted(place.glob(f"*-{split}.tfrecord-*"))
        if found:
            return found
    raise UsageError(
        f"expected an RLDS data set at {folder}/VERSION, with files *-{split}.tfrecord-*, found "
        "none; nothing is downloaded"
    )


def _version(path: Path) -> tuple[int, ...]:
    parts = path.name.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else (-1,)


def read_episodes(files: Sequence[Path], layout: EpisodeLayout) -> Iterator[RldsEpisode]:
    """All episodes with an instruction; those without one are left out, as OpenVLA does.

    Raises:
        UsageError: a file of another form.
    """
    for path in files:
        for place in records(path):
            names = (*layout.actions, *layout.texts, layout.state)
            content = parse_example(read_record(place), names)
            text, actions = _text(content, layout, place), _actions(content, layout, place)
            first = 0
            if layout.state:
                first, actions = 1, _moved(actions, _first(content, (layout.state,), place), place)
            if text and len(actions):
                yield RldsEpisode(place, layout, actions, text, first)


def _first(content: Mapping[str, Feature], names: Sequence[str], place: Place) -> Feature:
    found = next((content[name] for name in names if name in content), None)
    if found is None:
        raise UsageError(f"{place.path}: expected {' or '.join(names)} in its records, found none")
    return found


def _text(content: Mapping[str, Feature], layout: EpisodeLayout, place: Place) -> str:
    texts = _first(content, layout.texts, place)
    if not isinstance(texts, list):
        raise UsageError(f"{place.path}: expected instructions as texts, found numbers")
    return texts[0].decode("utf-8", "replace").strip() if texts else ""


def _actions(
    content: Mapping[str, Feature], layout: EpisodeLayout, place: Place
) -> NDArray[np.float32]:
    parts = [_first(content, (name,), place) for name in layout.actions]
    widths = (7,) if len(parts) == 1 else (3, 3, 1)
    if any(isinstance(p, list) or len(p) % w for p, w in zip(parts, widths, strict=True)):
        raise UsageError(f"{place.path}: expected numbers of {widths} in {layout.actions}")
    columns = [np.asarray(p, np.float32).reshape(-1, w) for p, w in zip(parts, widths, strict=True)]
    if len({len(column) for column in columns}) != 1 or not len(columns[0]):
        raise UsageError(f"{place.path}: expected as many steps in all of {layout.actions}")
    actions = np.concatenate(columns, 1)
    if not np.isfinite(actions).all():
        raise UsageError(f"{place.path}: expected finite actions in the record at {place.start}")
    actions[:, 6] = _GRIPPERS[layout.gripper](actions[:, 6])
    return actions


def _moved(actions: NDArray[np.float32], state: Feature, place: Place) -> NDArray[np.float32]:
    """Actions (T - 2, 7) of steps 1 to T - 2: differences of states, and the gripper's command."""
    if isinstance(state, list) or not len(state) or len(state) % len(actions):
        raise UsageError(f"{place.path}: expected a state for each of {len(actions)} steps")
    arm = np.asarray(state, np.float32).reshape(len(actions), -1)[1:, :6]
    if arm.shape[1] != 6:
        raise UsageError(f"{place.path}: expected states of six numbers or more")
    return np.concatenate([arm[1:] - arm[:-1], actions[1:-1, 6:]], 1)


def _opened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (values > 0.5).astype(np.float32)


def _settled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Above 0.95 open, below 0.05 closed; in between what it becomes next, else what it is last."""
    found, carried = np.empty_like(values), float(values[-1] > 0.5)
    for i in range(len(values) - 1, -1, -1):
        if values[i] > 0.95 or values[i] < 0.05:
            carried = float(values[i] > 0.95)
        found[i] = carried
    return found


def _closing(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A movement: above 0.1 it closes, below -0.1 it opens, else it stays.

    Before the first movement it is the opposite of that, and open without any.
    """
    signs = np.where(values > 0.1, -1.0, np.where(values < -0.1, 1.0, 0.0))
    moved = signs[signs != 0]
    carried = -moved[0] if len(moved) else 1.0
    found = np.empty_like(values)
    for i, sign in enumerate(signs):
        carried = sign or carried
        found[i] = (carried + 1) / 2
    return found


_GRIPPERS = {"open": _opened, "settled": _settled, "closing": _closing}


def _image(data: bytes, place: Place) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UsageError(f"{place.path}: an image of {picture.size} pixels is too large")
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{place.path}: expected an encoded image: {error}") from error


@dataclass(frozen=True)
class Bounds:
    """1 % and 99 % quantiles of each number, by which actions are brought to [-1, 1].

    Attributes:
        low: (7,).
        high: (7,).
        still: (7,) bool, whether a number never changes.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    still: NDArray[np.bool_]

    @classmethod
    def of_actions(cls, episodes: Sequence[RldsEpisode]) -> Bounds:
        """The quantiles of all steps."""
        actions = np.concatenate([episode.actions for episode in episodes])
        low, high = np.quantile(actions, (0.01, 0.99), axis=0)
        return cls(low, high, actions.min(0) == actions.max(0))

    def apply(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (T, 7) with the arm in [-1, 1], and 0 where a number never changes.

        As OpenVLA does (`BOUNDS_Q99`); the gripper stays.
        """
        made = 2 * (actions - self.low) / (self.high - self.low + 1e-8) - 1
        made = np.where(self.still, 0.0, made.clip(-1, 1))
        made[:, 6] = actions[:, 6]
        return made.astype(np.float32)
