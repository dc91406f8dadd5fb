"""docs/robovlms.md: the modules and tests of every topic exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "robovlms.md").read_text(encoding="utf-8")
CHAPTER = TEXT.split("## What of RoboVLMs is implemented")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| (.*?) \| (.*?) \| (.*?::.*?) \|$", CHAPTER, re.MULTILINE)
LOSSES = re.findall(
    r"^\| (.*?) \| .*? \| .*? \| (.*?) \| (.*?::.*?) \|$",
    TEXT.split("\n## Losses and tokens beside actions")[1].split("\n## ")[0],
    re.MULTILINE,
)
FILES = [path.as_posix() for path in (ROOT / "tests").rglob("test_*.py")]


def test_there_are_eleven_topics() -> None:
    assert len({topic for topic, _, _ in ROWS}) == 11
    assert len(re.findall(r"^\|", CHAPTER, re.MULTILINE)) == 11 + 2


def test_every_loss_that_is_named_has_a_row() -> None:
    names = " ".join(topic for topic, _, _ in LOSSES)
    for name in (
        "use_clip_norm", "use_state", "fwd_head", "use_pixel_loss", "use_mim_obs_loss",
        "vision_masked_ratio", "use_tube_mask", "fwd_loss_ratio", "fwd_pred_next_n",
    ):  # fmt: skip
        assert f"`{name}`" in names


@pytest.mark.parametrize(("topic", "modules", "tests"), [*ROWS, *LOSSES])
def test_modules_and_tests_of_a_topic_exist(topic: str, modules: str, tests: str) -> None:
    folder = ROOT
    for module in re.findall(r"`(.+?)`", modules):
        # A module without a folder lies beside the one before it.
        path = ROOT / module if "/" in module else folder / module
        assert path.exists(), path
        folder = path.parent
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    assert len(named) == tests.count("`") // 2
    for name, function in named:
        (path,) = [Path(file) for file in FILES if file.endswith(f"/{name}")]
        assert re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE), (
            f"{topic}: no {function} in {name}"
        )
