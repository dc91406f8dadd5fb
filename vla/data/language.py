"""Images with sentences: conversations in LLaVA's form, as a torch data set.

A file is a JSON list of entries with `image`, a file beside it, and `conversations`, turns of
"human" and "gpt". An image may also be a frame of a CALVIN split, of which `rgb_static` is shown.
Facts of the form: LLaVA, and RoboVLMs, vid_llava_dataset. `calvin-eval record --captions` makes
one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.vla.data.chunks import pad_sequences
from calvin_eval.vla.data.collate import Batch
from calvin_eval.vla.data.labels import IGNORED, Writer
from calvin_eval.vla.data.npz import read_npz
from calvin_eval.vla.data.transform import Images

IMAGE_ID = -200
"""Id that stands for an image in a row of words (LLaVA)."""

CAPTION, CONVERSATION = "caption", "vl_pretrain"
"""`data_source` of a batch: what its loss is called, see `language_losses`."""

FILE = "captions.json"
MOST_BYTES = 256 << 20
CAMERA = "rgb_static"


@dataclass(frozen=True)
class Turn:
    """What is asked and what is answered."""

    asked: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Turns about one image."""

    image: Path
    turns: tuple[Turn, ...]


def read_conversations(
    path: Path, *, folder: Path | None = None, kind: str | None = None
) -> list[Conversation]:
    """The entries of a file.

    Args:
        path: the JSON file.
        folder: with the images; the file's own if None.
        kind: only entries that say they are of this kind, and those that say nothing; all if None.

    Raises:
        UsageError: it cannot be read, or an entry is of another form.
    """
    try:
        entries = parse_json(path.read_bytes(), most=MOST_BYTES)
    except OSError as error:
        raise UsageError(f"expected conversations at {path}: {error.strerror}") from error
    except DocumentError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"{path}: expected a list of conversations, found {type(entries).__name__}"
        )
    root = (folder or path.parent).resolve()
    return [
        _conversation(entry, root, f"{path}, entry {n}")
        for n, entry in enumerate(entries)
        if kind is None or not isinstance(entry, Mapping) or entry.get("kind", kind) == kind
    ]


def _conversation(entry: Any, root: Path, where: str) -> Conversation:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
        raise UsageError(f"{where}: expected an image and conversations")
    image = (root / entry["image"]).resolve()
    if not image.is_relative_to(root):
        raise UsageError(f"{where}: expected an image below {root}, found {entry['image']!r}")
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise UsageError(f"{where}: expected turns of human and gpt, one after the other")
    texts = [_said(turn, ("human", "gpt")[i % 2], where) for i, turn in enumerate(turns)]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(image, tuple(Turn(asked, answer) for asked, answer in pairs))


def _said(turn: Any, who: str, where: str) -> str:
    if not isinstance(turn, Mapping) or turn.get("from") != who:
        raise UsageError(f"{where}: expected a turn of {who!r}, found {turn!r}")
    return str(turn.get("value", "")).replace("<image>", "").strip()


class LanguageDataset(Dataset[dict[str, Any]]):
    """Conversations as rows of ids, with their images.

    Args:
        conversations: what there is.
        writer: writes questions in the model's chat form.
        images: makes a network's images.
        source: `CONVERSATION` learns all answers behind their questions, `CAPTION` the last
            answer alone behind the image.
        longest: ids of a row at most; a longer one is cut.

    Raises:
        UsageError: an unknown source.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        writer: Writer,
        images: Images,
        *,
        source: str = CONVERSATION,
        longest: int = 512,
    ) -> None:
        if source not in (CAPTION, CONVERSATION):
            raise UsageError(f"expected {CAPTION} or {CONVERSATION}, found {source!r}")
        self._entries, self._writer, self._images = list(conversations), writer, images
        self.source, self._longest = source, longest

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An image (1, 3, S, S) of the image function's type, ids and labels (L,) int64.

        Raises:
            UsageError: an image that cannot be read.
        """
        entry = self._entries[index]
        rows = self._caption(entry) if self.source == CAPTION else self._answers(entry)
        ids, labels = (torch.tensor(part[: self._longest]) for part in rows)
        return {"image": self._images([read_image(entry.image)]), "ids": ids, "labels": labels}

    def _start(self) -> list[int]:
        """The start token, if the tokenizer puts one in front, and the image."""
        first = self._writer.read("a")[:1]
        return [i for i in first if i == self._writer.tokenizer.bos_token_id] + [IMAGE_ID]

    def _caption(self, entry: Conversation) -> tuple[list[int], list[int]]:
        start = self._start()
        said = self._writer.ended(self._writer.read(entry.turns[-1].answer, start=False))
        return start + said, [IGNORED] * len(start) + said

    def _answers(self, entry: Conversation) -> tuple[list[int], list[int]]:
        ids = self._start()
        labels = [IGNORED] * len(ids)
        for turn in entry.turns:
            asked = self._question(turn.asked)
            said = self._writer.ended(self._writer.read(turn.answer, start=False))
            ids += asked + said
            labels += [IGNORED] * len(asked) + said
        return ids, labels

    def _question(self, asked: str) -> list[int]:
        """Ids of a question in the chat form, without the empty answer's end."""
        text = self._writer.text(asked)
        end = self._writer.tokenizer.eos_token
        return self._writer.read(text.removesuffix(end or ""), start=False)


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image (H, W, 3): of a picture's file, or the static camera's of a CALVIN frame.

    Raises:
        UsageError: it cannot be read.
    """
    if path.suffix == ".npz":
        try:
            return _frame(path)
        except (OSError, KeyError, ValueError, zlib.error, BadZipFile) as error:
            raise UsageError(f"{path}: expected a frame with {CAMERA}: {error}") from error
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: expected an image: {error}") from error


def _frame(path: Path) -> NDArray[np.uint8]:
    image = np.asarray(read_npz(str(path), (CAMERA,))[CAMERA])
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"its shape is {image.shape} {image.dtype}")
    return image


@dataclass(frozen=True, kw_only=True)
class LanguageCollator:
    """Batches of `LanguageDataset`'s samples, under RoboVLMs' names.

    A batch holds rgb, (B, 1, 3, S, S); instr_and_action_ids with `IMAGE_ID` where the image goes,
    instr_and_action_labels and instr_and_action_mask, (B, L), which text and text_mask repeat; and
    data_source.

    Attributes:
        pad_id: id that pads a row.
        source: see `LanguageDataset`.
    """

    pad_id: int
    source: str

    def __call__(self, samples: Sequence[Mapping[str, Tensor]]) -> Batch:
        """A batch, padded on the right."""
        rows = [sample["ids"] for sample in samples]
        ids = pad_sequences(rows, self.pad_id)
        mask = pad_sequences([torch.ones_like(row).bool() for row in rows], False)
        return {
            "rgb": torch.stack([sample["image"] for sample in samples]),
            "hand_rgb": None,
            "instr_and_action_ids": ids,
            "instr_and_action_labels": pad_sequences([s["labels"] for s in samples], IGNORED),
            "instr_and_action_mask": mask,
            "text": ids,
            "text_mask": mask,
            "data_source": self.source,
        }
