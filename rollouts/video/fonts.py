"""Fonts for captions: Pillow's own, and one of the machine's for letters that it does not have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from PIL import ImageFont

VARIABLE: Final = "CALVIN_EVAL_FONT"
"""Environment variable with the path of a font file that is tried before the machine's fonts."""

_FOLDERS: Final = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",
    "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_SUFFIXES: Final = (".ttf", ".otf", ".ttc", ".otc")
_PREFERRED: Final = ("cjk", "sans", "wqy", "droid", "gothic", "hei", "pingfang")
_AVOIDED: Final = ("bold", "italic", "oblique", "mono", "condensed", "light", "emoji", "serif")
_MOST: Final = 4000  # font files that are looked at
_NOWHERE: Final = "\U0010ffff"  # no font has this one: it shows as what stands for a missing glyph
_TRIED_SIZE: Final = 16


@lru_cache(maxsize=64)
def font(size: int, path: str = "") -> Any:
    """Returns a font: Pillow's own, so that frames look alike on every machine, or a file's.

    Args:
        size: in pixels.
        path: of a font file; Pillow's own if empty.
    """
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@lru_cache(maxsize=256)
def find_font(text: str) -> str | None:
    """Returns the path of a font that has every letter of a text; "" for Pillow's own.

    Tried are Pillow's own font, the file that `CALVIN_EVAL_FONT` names, and the machine's fonts.
    None if no font has all of them.
    """
    letters = "".join(sorted({letter for letter in text if not letter.isspace()}))
    return _font_with(letters) if letters else ""


@lru_cache(maxsize=64)
def _font_with(letters: str) -> str | None:
    return next((path for path in _candidates() if _has(path, letters)), None)


def _candidates() -> Iterator[str]:
    """Yields paths of font files, the likely ones first."""
    yield ""
    if named := os.environ.get(VARIABLE):
        yield named
    yield from _installed()


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found: list[str] = []
    for folder in _FOLDERS:
        for here, _, files in os.walk(Path(folder).expanduser()):
            found += [f"{here}/{name}" for name in files if name.lower().endswith(_SUFFIXES)]
    return tuple(sorted(found, key=_rank)[:_MOST])


def _rank(path: str) -> tuple[int, str]:
    name = Path(path).name.lower()
    likely = sum(word in name for word in _PREFERRED)
    return 10 * sum(word in name for word in _AVOIDED) - likely, path


def _has(path: str, letters: str) -> bool:
    """Whether a font can be read and has its own glyph for each of these letters."""
    try:
        face = font(_TRIED_SIZE, path)
        missing = _glyph(face, _NOWHERE)
        return all(_glyph(face, letter) not in (missing, None) for letter in letters)
    except (OSError, ValueError):  # no font, or one of fixed sizes
        return False


def _glyph(face: Any, letter: str) -> tuple[tuple[int, int], bytes] | None:
    """The picture of one letter; None if it is empty."""
    mask = face.getmask(letter)
    return (mask.size, bytes(mask)) if any(mask.size) else None
