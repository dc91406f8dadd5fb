"""A leaderboard of 500 entries in a real browser: from a file, at every width, by its script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boards import judged, make_bundle, many_rows
from browsing import Browser, running_browser

from calvin_eval.results.board.board import arrange
from calvin_eval.results.board.build import build_site
from calvin_eval.results.board.pages import Pages
from calvin_eval.results.board.reported import read_reported

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SHOWN = "return [...document.querySelectorAll('[data-row]')].filter(r => !r.hidden).length"
WIDER = (
    "return [...document.querySelectorAll('body, header, main, nav, section')].filter("
    "e => e.scrollWidth > document.documentElement.clientWidth + 1).map(e => e.tagName + e.id)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built site of two entries, whose first page is one of 500."""
    root = tmp_path_factory.mktemp("site")
    bundles = [make_bundle(root, "one", [5, 4] * 30), make_bundle(root, "other", [1, 0] * 30)]
    settings = {"judge": judged(), "version": "1", "title": "Board"}
    built = build_site(bundles, root / "site", **settings)  # type: ignore[arg-type]
    board = arrange("Many", many_rows(built.board.rows[0].entry, 500), [])
    many = replace(board, reported=read_reported())
    (root / "site/many.html").write_text(Pages(many).index(), encoding="utf-8")
    return root / "site"


def type_into(browser: Browser, selector: str, text: str) -> None:
    browser.run(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))", selector, text,
    )  # fmt: skip


def test_five_hundred_rows_are_filtered_and_sorted(browser: Browser, site: Path) -> None:
    browser.width(1400)
    browser.open(site / "many.html")
    assert browser.complaints() == []
    rows = 500 + len(read_reported())
    assert browser.run(SHOWN) == rows
    type_into(browser, "input[type=search]", "policy 12")
    assert 0 < browser.run(SHOWN) < 20
    type_into(browser, "input[type=search]", "")
    type_into(browser, "select[data-by=badge]", "all")
    assert browser.run(SHOWN) == 500
    type_into(browser, "select[data-by=badge]", "")
    type_into(browser, "select[data-by=protocol]", "reported")
    assert browser.run(SHOWN) == len(read_reported())
    lengths = browser.run(
        "const t = document.querySelector('table.entries');"
        "const b = [...t.tHead.querySelectorAll('button')].find(x => x.textContent == 'Policy');"
        "b.click(); b.click();"
        "return [...t.tBodies[0].rows].map(r => r.querySelector('th').dataset.value)"
    )
    assert lengths == sorted(lengths, key=lambda name: int(name.split()[1]), reverse=True)


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_no_page_is_wider_than_the_screen(browser: Browser, site: Path, width: int) -> None:
    browser.width(width)
    pages = [site / "many.html", *sorted(site.glob("entries/*/index.html"))]
    for scheme in ("light", "dark"):
        browser.media(scheme=scheme)
        for page in pages:
            browser.open(page)
            assert browser.run(WIDER) == [], page
            assert browser.complaints() == []


def test_a_page_can_be_read_without_its_script(browser: Browser, site: Path) -> None:
    browser.width(1400)
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(site / "index.html")
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run(SHOWN) == 2
    assert browser.run("return document.querySelector('.tools').hidden") is True


def test_links_work_from_a_file(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    browser.run("document.querySelector('.policy a').click()")
    assert browser.run("return document.title") == "one on CALVIN"
    browser.run("document.querySelector('#beside a').click()")
    assert "one" in browser.run("return document.title")
    assert "other" in browser.run("return document.title")
