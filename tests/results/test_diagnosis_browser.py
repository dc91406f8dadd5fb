"""The page of a diagnosis in a real browser: what its fields find, at every width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Browser, running_browser
from made_diagnosis import large_diagnosis
from made_pictures import made_pictures

from calvin_eval.results.diagnosis import Diagnosis
from calvin_eval.results.report.diagnosis import diagnosis_html

pytestmark = [pytest.mark.slow, pytest.mark.processes]

CHAINS = """return [...document.querySelectorAll(`#${arguments[0]} [data-row]`)]
  .filter((row) => row.getClientRects().length).map((row) =>
    Number(row.id.slice(6) || row.cells[0].textContent))"""
PUT = """const field = document.querySelector(arguments[0]); field.value = arguments[1];
  field.dispatchEvent(new Event("input", {bubbles: true}));"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return large_diagnosis(80)


@pytest.fixture
def opened(browser: Browser, found: Diagnosis, tmp_path: Path) -> Browser:
    page = tmp_path / "diagnosis.html"
    page.write_text(diagnosis_html(found, "mine", made_pictures(found.failures)), encoding="utf-8")
    browser.width(1300)
    browser.media()
    browser.open(page)
    assert browser.complaints() == []
    return browser


def put(browser: Browser, field: str, value: str) -> None:
    browser.run(PUT, "input[type=search]" if field == "find" else f"[data-by={field}]", value)


def test_task_cause_and_place_find_rows_and_pictures(opened: Browser, found: Diagnosis) -> None:
    everything = [failure.chain for failure in found.failures]
    assert opened.run(CHAINS, "chain-table") == everything
    assert opened.run(CHAINS, "cards") == everything
    chosen = {"task": found.failures[5].task, "cause": found.failures[5].cause}
    for field, value in chosen.items():
        put(opened, field, value)
        wanted = [f.chain for f in found.failures if getattr(f, field) == value]
        assert 0 < len(wanted) < len(everything)
        assert opened.run(CHAINS, "chain-table") == wanted
        assert opened.run(CHAINS, "cards") == wanted
        put(opened, field, "")
    put(opened, "place", "3")
    third = [f.chain for f in found.failures if f.position == 2]
    assert opened.run(CHAINS, "cards") == third
    put(opened, "cause", str(chosen["cause"]))
    both = [f.chain for f in found.failures if f.position == 2 and f.cause == chosen["cause"]]
    assert opened.run(CHAINS, "chain-table") == both
    count = opened.run("return document.querySelector('[data-count]').textContent")
    assert count == f"{len(both)} of {len(everything)}"
    put(opened, "find", "no such word")
    assert opened.run(CHAINS, "cards") == []


def test_a_square_finds_its_failures(opened: Browser, found: Diagnosis) -> None:
    key = f"{found.failures[7].task}: {found.failures[7].cause}"
    opened.run(
        "document.querySelector(`[data-find='${arguments[0]}']`)"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))", key,
    )  # fmt: skip
    wanted = [f.chain for f in found.failures if f"{f.task}: {f.cause}" == key]
    assert opened.run(CHAINS, "chain-table") == wanted
    assert opened.run(CHAINS, "cards") == wanted


def test_a_chain_leads_to_its_pictures(opened: Browser) -> None:
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    opened.command("Emulation.setEmulatedMedia", features=still)
    opened.run("document.querySelector('#chain-table tbody a').click()")
    seen = "return document.querySelector('#chain-0').getBoundingClientRect().top"
    assert 0 <= opened.run(seen) < 800
    drawn = opened.run(
        "return document.querySelector('#chain-0 img').decode().then("
        "() => document.querySelector('#chain-0 img').naturalWidth)"
    )
    assert drawn == 576


@pytest.mark.parametrize("width", [390, 820, 1300])
def test_nothing_is_wider_than_the_screen(opened: Browser, width: int) -> None:
    opened.width(width)
    for scheme in ("light", "dark"):
        opened.media(scheme=scheme)
        wider = opened.run(
            "return [...document.querySelectorAll('body, section, figure, .strip > *')].filter("
            "e => e.scrollWidth > document.documentElement.clientWidth + 1).map(e => e.outerHTML)"
        )
        assert wider == []
    texts = "return [...document.querySelectorAll('#chain-0 li')].map(e => e.scrollWidth <= "
    assert all(opened.run(texts + "e.clientWidth + 1)")), "words of frames overlap"
