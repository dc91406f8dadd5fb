"""The summary of skipped tests, and where the official assets are looked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requirements
from requirements import REMEDIES, official_assets, reason, skip_lines

from calvin_eval.sim.assets import store


def test_needs_are_counted_whatever_was_found_instead() -> None:
    reasons = [
        reason("EGL", "no libEGL.so.1"),
        f"Skipped: {reason('the official assets')}",
        f"Skipped: {reason('EGL', 'no device')}",
        "Skipped: this C library has one kind of sine only",
    ]
    assert skip_lines(reasons) == [
        f"2 tests need EGL: {REMEDIES['EGL']}",
        "1 test needs the official assets: calvin-eval assets pull",
        "1 test skipped: this C library has one kind of sine only",
    ]


def test_needs_that_are_not_in_the_table_say_their_own_remedy() -> None:
    assert skip_lines(['needs the extra gl: pip install "calvin-eval[gl]"'] * 2) == [
        '2 tests need the extra gl: pip install "calvin-eval[gl]"'
    ]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without official assets, whose cache is the folder."""
    monkeypatch.setattr(requirements, "SHARED", tmp_path / "shared")
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(store.ASSETS_VARIABLE, raising=False)
    official_assets.cache_clear()
    yield tmp_path
    official_assets.cache_clear()


def test_official_assets_are_found_where_the_command_puts_them(nowhere: Path) -> None:
    assert official_assets() is None
    official_assets.cache_clear()
    pulled = nowhere / "cache" / "official"
    pulled.mkdir(parents=True)
    assert official_assets() == pulled


def test_official_assets_are_found_beside_the_checkout(nowhere: Path) -> None:
    (nowhere / "shared/calvin").mkdir(parents=True)
    assert official_assets() == nowhere / "shared/calvin"


def test_the_variable_that_names_the_assets_decides(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "shared/calvin").mkdir(parents=True)
    shutil.copytree(nowhere / "shared/calvin", nowhere / "named")
    monkeypatch.setenv(store.ASSETS_VARIABLE, str(nowhere / "named"))
    assert official_assets() == nowhere / "named"
