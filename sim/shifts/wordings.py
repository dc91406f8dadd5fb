"""Other wordings of the 34 instructions, in five graded steps, from the package's own file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import yaml

from calvin_eval.sim.symbolic import BLOCKS, TASK_NAMES

Words: TypeAlias = "str | Sequence[str]"

STEPS: Final[Mapping[int, str]] = {
    1: "synonyms",
    2: "other syntax",
    3: "indirect reference",
    4: "many words",
    5: "typing errors or another language",
}
"""What the five levels of the axis `language` are."""

_FILE = Path(__file__).parents[1] / "data" / "wordings.yaml"
_CHOICE = re.compile(r"\(([^()]*)\)")
_WRITTEN = {1: "synonyms", 2: "syntax", 3: "indirect"}
_MISTYPED: Final = 12  # sentences with typing errors per task, beside those in other languages
_ERRORS: Final = 2  # per sentence


@cache
def wordings(task: str, level: int) -> tuple[str, ...]:
    """All sentences of a level for a task, distinct, in a fixed order.

    Args:
        task: one of the 34.
        level: from 1 to 5, see `STEPS`.
    """
    family, words = _family(task)
    if level in _WRITTEN:
        return _expanded(family[_WRITTEN[level]], words)
    plain = _expanded(family["synonyms"], words)
    if level == 4:
        return tuple(
            frame.replace("{ask}", core) for frame, core in product(_content()["wordy"], plain)
        )
    some = plain[:: max(1, len(plain) // _MISTYPED)]
    return (*map(mistyped, some), *_expanded(family["foreign"], words))


def mistyped(sentence: str) -> str:
    """The sentence with typing errors that follow from it: letters swapped, doubled or left out.

    The first and the last letter of a word stay, and words of up to three letters are left alone,
    so that it can be read.
    """
    words = sentence.split(" ")
    seed = np.frombuffer(hashlib.sha256(sentence.encode()).digest(), dtype="<u4")
    stream = np.random.RandomState(seed)
    long = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 3]
    for place in stream.permutation(len(long))[:_ERRORS]:
        word = words[long[place]]
        at, how = 1 + stream.randint(len(word) - 3), stream.randint(3)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        doubled = word[:at] + word[at] + word[at:]
        dropped = word[:at] + word[at + 1 :] if len(word) > 4 else doubled
        made = (swapped, doubled, dropped)[how]
        words[long[place]] = made if made != word else doubled
    return " ".join(words)


@cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return content


def _family(task: str) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Words]]:
    """The patterns of a task, and what the names in braces stand for."""
    assert task in TASK_NAMES
    words: dict[str, Words] = {}
    family, known = task, _content()["words"]
    color = next((b.removesuffix("_block") for b in BLOCKS if b in task), None)
    side = task.rpartition("_")[2]
    if color is not None:
        family = family.replace(color, "COLOR")
        words["color"] = color
        words.update(known[color])
    if side in ("left", "right"):
        family = family.removesuffix(side) + "SIDE"
        words["side"] = side
        words.update(known[side])
    return _content()["tasks"][family], words


def _expanded(patterns: Sequence[str], words: Mapping[str, Words]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for pattern in patterns for text in _filled(pattern, words)))


def _filled(pattern: str, words: Mapping[str, Words]) -> Iterator[str]:
    """All sentences that a pattern stands for."""
    for name, value in words.items():
        choice = value if isinstance(value, str) else f"({'|'.join(value)})"
        pattern = pattern.replace("{" + name + "}", choice)
    parts = _CHOICE.split(pattern)
    fixed, choices = parts[::2], [part.split("|") for part in parts[1::2]]
    for chosen in product(*choices):
        yield "".join(a + b for a, b in zip(fixed, (*chosen, ""), strict=True))
