"""Captions in any script: a font that has the letters, or a sentence that says there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.rollouts.video import fonts, frames
from calvin_eval.rollouts.video.fonts import VARIABLE, find_font
from calvin_eval.rollouts.video.frames import Caption, FrameComposer

CYRILLIC = "\u0434\u0432\u0435\u0440\u044c"  # a door
OTHER = CYRILLIC[::-1]
CHINESE = "\u6253\u5f00\u62bd\u5c49"  # open the drawer


@pytest.fixture(autouse=True)
def _forgotten() -> Any:
    """What was found before is looked for again."""
    caches = (fonts.find_font, fonts._font_with, fonts._installed)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def without_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    monkeypatch.delenv(VARIABLE, raising=False)


def caption_bar(instruction: str) -> Any:
    caption = Caption(
        chain=3, position=1, subtasks=5, task="lift", instruction=instruction, budget=10
    )
    image = np.zeros((120, 400, 3), np.uint8)
    return FrameComposer([(400, 120)]).compose([image], caption, 1)[120:]


def a_font_with(text: str) -> str:
    """A font of this machine that Pillow's own does not stand in for."""
    path = find_font(text)
    if not path:
        pytest.skip("this machine has no font with these letters")
    return path


def test_pillows_own_font_has_the_benchmarks_sentences() -> None:
    assert find_font("use the switch to turn on the light bulb") == ""
    assert find_font(" \n") == ""


def test_letters_that_no_font_has_are_not_drawn_as_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    without_fonts(monkeypatch)
    assert find_font(CHINESE) is None
    assert (caption_bar(CHINESE) == caption_bar(frames._UNREADABLE)).all()


@pytest.mark.parametrize("text", [CYRILLIC, CHINESE], ids=["cyrillic", "chinese"])
def test_a_font_of_the_machine_is_found_for_other_letters(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = a_font_with(text)
    shown = caption_bar(text)
    assert (shown != caption_bar(frames._UNREADABLE)).any()
    assert (shown != caption_bar(text[::-1])).any()
    without_fonts(monkeypatch)
    for cache in (fonts.find_font, fonts._font_with):
        cache.cache_clear()
    assert find_font(text) is None
    for cache in (fonts.find_font, fonts._font_with):
        cache.cache_clear()
    monkeypatch.setenv(VARIABLE, path)
    assert find_font(text) == path
    assert (caption_bar(text) == shown).all()


def test_a_file_that_is_no_font_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fonts(monkeypatch)
    broken = tmp_path / "cjk.ttf"
    broken.write_bytes(b"no font")
    for named in (broken, tmp_path / "none.ttf"):
        monkeypatch.setenv(VARIABLE, str(named))
        fonts._font_with.cache_clear()
        assert fonts._font_with(CHINESE) is None


def test_a_sentence_of_several_lines_is_written_in_one() -> None:
    assert (caption_bar("push it. \n\nPush it") == caption_bar("push it. Push it")).all()


@pytest.mark.parametrize("width", [48, 400])
def test_a_chain_of_fifty_tasks_has_a_caption(width: int) -> None:
    caption = Caption(
        chain=3, position=49, subtasks=50, task="lift", instruction="lift it", budget=360
    )
    image = np.zeros((48, width, 3), np.uint8)
    frames = FrameComposer([(width, 48)])
    shown = frames.compose([image], caption, 360, "success")
    assert shown.shape[1] == width
    assert frames._pills(caption).width < max(width // 2, 200)
