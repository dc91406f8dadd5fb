"""What a suite's page shows beside numbers, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from browsing import Browser, running_browser
from PIL import Image

from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.looks import Film, Looks, looks_of, to_film
from calvin_eval.results.robustness.page import suite_html
from calvin_eval.results.robustness.suite import Suite, read_suite
from handmade import record, write_run

CLEAN = [5, 4, 3, 5, 2, 0, 5, 5, 4, 1] * 4
CELLS = {
    CellName(axis="start", level=1): [max(n - 1, 0) for n in CLEAN],
    CellName(axis="camera", level=3): [max(n - 3, 0) for n in CLEAN],
    CellName(axis="language", level=1): CLEAN,
    CellName(axis="language", level="empty"): [0] * len(CLEAN),
}


def jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (200, 284), "teal").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A suite of 40 chains; `language=1` says something that is no markup."""
    folder = tmp_path_factory.mktemp("suite")
    write_run(folder / "clean", [record(i, n) for i, n in enumerate(CLEAN)])
    for name, lengths in CELLS.items():
        records = [record(i, n) for i, n in enumerate(lengths)]
        if name.axis == "language":
            said = "<b>turn</b> it" if name.graded else " "
            records = [
                replace(one, subtasks=tuple(replace(s, instruction=said) for s in one.subtasks))
                for one in records
            ]
        write_run(folder / name.folder, records)
    return read_suite(folder, [*CELLS], 0)


LOOKS = Looks(
    frames={"clean": jpeg(), "start-1": jpeg()},
    films=(Film(path="videos/start-1-chain0000.mp4", cell="start=1", chain=0, clean=5, shifted=4),),
)


def test_a_row_has_the_clean_run_first_and_what_was_said(suite: Suite) -> None:
    rows = looks_of(suite, LOOKS)
    assert [*rows] == ["start", "language"], "camera has no pictures"
    assert [look.label for look in rows["start"]] == ["clean", "1"]
    assert all(look.image and not look.words for look in rows["start"])
    clean, one, empty = rows["language"]
    assert (one.label, one.words) == ("1", "<b>turn</b> it")
    assert (empty.label, empty.words) == ("empty", "(nothing)")
    assert clean.words not in ("", one.words)


def test_chains_that_lost_most_are_filmed(suite: Suite) -> None:
    chosen = [(str(cell.name), chain) for cell, chain in to_film(suite, 3)]
    assert chosen == [("language=empty", 0), ("camera=3", 0), ("start=1", 0)]
    assert to_film(suite, 0) == []


def test_the_page_has_no_markup_of_others_and_nothing_beside_it_but_films(suite: Suite) -> None:
    page = suite_html(suite, LOOKS)
    assert "&lt;b&gt;turn&lt;/b&gt; it" in page
    assert page.count("<img") == page.count("data:image/jpeg;base64,") == 2
    assert page.count('src="videos/') == 1
    assert "<img" not in suite_html(suite)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.processes
def test_no_page_is_wider_than_the_screen(browser: Browser, suite: Suite, tmp_path: Path) -> None:
    page = tmp_path / "robustness.html"
    page.write_text(suite_html(suite, replace(LOOKS, films=())), encoding="utf-8")
    for width in (390, 820, 1300):
        browser.width(width)
        for scheme in ("light", "dark"):
            browser.media(scheme=scheme)
            browser.open(page)
            assert browser.complaints() == []
            wider = browser.run(
                "return [...document.querySelectorAll('body, header, section')].filter(e => "
                "e.scrollWidth > document.documentElement.clientWidth + 1).map(e => e.id)"
            )
            assert wider == [], f"at {width}"
    tops = browser.run(
        "return [...document.querySelectorAll('.looks img')].map(e => "
        "[e.getBoundingClientRect().top, e.complete && e.naturalWidth])"
    )
    assert len({top for top, _ in tops}) == 1, "side by side"
    assert {width for _, width in tops} == {200}
