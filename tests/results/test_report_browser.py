"""The report in a real browser, driven by the WebDriver protocol, which is JSON over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from browsing import Browser, running_browser

from calvin_eval.results.report import write_reports
from calvin_eval.results.store import RunFolder

MakeRun = Callable[..., RunFolder]

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def film(path: Path) -> None:
    """A second of moving colours."""
    path.parent.mkdir(exist_ok=True)
    writer = imageio_ffmpeg.write_frames(str(path), (64, 64), fps=10, output_params=["-an"])
    writer.send(None)
    for i in range(10):
        writer.send(bytes([25 * i]) * (64 * 64 * 3))
    writer.close()


@pytest.fixture
def opened(browser: Browser, make_run: MakeRun) -> Browser:
    """A browser that shows the report of 40 chains, one missing, one broken, some filmed."""
    folder = make_run(40, missing=(3,), errors={5: "ValueError: <b>boom</b>"})
    for record in folder.records():
        if record.status == "completed" and record.length < 5:
            film(folder.path / "videos" / f"chain{record.chain:04d}.mp4")
    write_reports(folder, partial=True)
    browser.width(1200)
    browser.media()
    browser.open(folder.path / "report.html")
    return browser


COLUMN = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]
  .filter((row) => !row.hidden).map((row) => row.cells[arguments[1]].textContent.trim());"""
CLICK = """document.querySelectorAll(`#${arguments[0]} thead th button`)[arguments[1]].click();
  return [...document.querySelectorAll(`#${arguments[0]} thead th`)]
  .map((heading) => heading.getAttribute("aria-sort"));"""
TYPE = """const field = document.querySelector(arguments[0]); field.value = arguments[1];
  field.dispatchEvent(new Event("input", {bubbles: true}));"""
SEARCH = 'input[data-filter~="chain-table"]'


def test_the_page_renders_in_silence(opened: Browser) -> None:
    assert opened.run("return document.title") == "checkpoints/vla-base.pt on CALVIN"
    size = opened.run(
        "return [...document.querySelectorAll('svg')].map((s) => s.getBoundingClientRect())"
        ".filter((b) => b.width < 10 || b.height < 5).length"
    )
    assert size == 0
    assert opened.run("return document.querySelectorAll('svg').length") > 10
    assert opened.run("return document.querySelectorAll('.tools[hidden]').length") == 0
    assert opened.complaints() == []
    loaded = opened.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith("file:") for name in loaded)
    opened.run("console.error('ours')")  # so that silence means something
    assert len(opened.complaints()) == 1


def test_foreign_scripts_do_not_run_even_if_they_got_in(opened: Browser) -> None:
    script = "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
    opened.run(script + "document.body.append(s);")
    assert opened.run("return window.bad") is None
    assert any("Content Security Policy" in message for message in opened.complaints())


def test_a_click_on_a_heading_sorts(opened: Browser) -> None:
    rates = [float(text) for text in opened.run(COLUMN, "task-table", 2)]
    assert rates == sorted(rates, reverse=True)
    state = opened.run(CLICK, "task-table", 0)
    assert state[0] == "ascending"
    assert state[1:] == [None] * (len(state) - 1)
    names = opened.run(COLUMN, "task-table", 0)
    assert names == sorted(names)
    opened.run(CLICK, "task-table", 0)
    assert opened.run(COLUMN, "task-table", 0) == names[::-1]
    assert opened.run(CLICK, "task-table", 5)[5] == "descending"
    tried = [int(text) for text in opened.run(COLUMN, "task-table", 5)]
    assert tried == sorted(tried, reverse=True)
    assert tried != sorted(tried)
    opened.run(CLICK, "task-table", 5)
    assert [int(text) for text in opened.run(COLUMN, "task-table", 5)] == sorted(tried)
    opened.run(CLICK, "task-table", 1)  # bars, by their values
    assert [float(text) for text in opened.run(COLUMN, "task-table", 2)] == rates


def test_filters_hide_rows(opened: Browser) -> None:
    everything = opened.run(COLUMN, "task-table", 0)
    opened.run(TYPE, 'input[data-filter~="task-table"]', "Drawer ")
    drawers = [name for name in everything if "drawer" in name]
    assert 0 < len(drawers) < len(everything)
    assert opened.run(COLUMN, "task-table", 0) == drawers
    counted = opened.run("return document.querySelector('[data-count=task-table]').textContent")
    assert counted == f"{len(drawers)} of {len(everything)}"

    opened.run(TYPE, 'select[data-filter~="chain-table"]', "error")
    assert opened.run(COLUMN, "chain-table", 0) == ["5"]
    opened.run(TYPE, 'select[data-filter~="chain-table"]', "failed")
    failed = opened.run(COLUMN, "chain-table", 0)
    shown = "return document.querySelectorAll('#gallery .card:not([hidden])').length"
    assert opened.run(shown) == len(failed)
    task = opened.run("return document.querySelector('#gallery .card b').textContent")
    opened.run(TYPE, SEARCH, f"→ {task}")
    assert all(text.endswith(task) for text in opened.run(COLUMN, "chain-table", 2))
    assert opened.run(shown) == len(opened.run(COLUMN, "chain-table", 0)) < len(failed)
    opened.run(TYPE, SEARCH, "nothing of that kind")
    assert opened.run(COLUMN, "chain-table", 0) == []
    visible = "return [...document.querySelectorAll('#chain-table tbody tr')]"
    assert opened.run(visible + ".filter((row) => row.offsetHeight > 0).length") == 0


def test_a_square_of_the_matrix_finds_its_chains(opened: Browser) -> None:
    find = opened.run(
        "const square = document.querySelector('[data-find]');"
        "square.dispatchEvent(new MouseEvent('click', {bubbles: true}));"
        "return square.dataset.find"
    )
    endings = opened.run(COLUMN, "chain-table", 2)
    assert endings
    assert set(endings) == {find}


def test_a_video_plays(opened: Browser) -> None:
    assert opened.run("return document.querySelector('video').getAttribute('preload')") in (
        "none", "metadata"
    )  # fmt: skip
    played = opened.run(
        """const video = document.querySelector("video");
        return new Promise((resolve, reject) => {
          video.addEventListener("timeupdate", () => {
            if (video.currentTime > 0) resolve([video.videoWidth, video.error]);
          });
          video.addEventListener("error", () => reject(video.error.message));
          video.play().catch(reject);
        });"""
    )
    assert played == [64, None]
    assert opened.complaints() == []


@pytest.mark.parametrize("width", [380, 390, 768])
def test_nothing_sticks_out_of_a_small_screen(opened: Browser, width: int) -> None:
    opened.width(width)
    assert opened.run("return document.documentElement.scrollWidth") <= width
    names = "return document.querySelector('#task-table').getBoundingClientRect()"
    assert opened.run(names)["right"] <= width


def test_light_dark_and_paper(opened: Browser) -> None:
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    light = opened.run(colours)
    opened.media(scheme="dark")
    dark = opened.run(colours)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    opened.media("print", "dark")
    paper = opened.run(colours)
    assert paper[0] == light[0]
    height = "return document.querySelector(arguments[0]).offsetHeight"
    assert opened.run(height, "#chain-table") == 0
    assert opened.run(height, "#gallery") == 0
    assert opened.run(height, "#task-table") > 0
    opened.media()
    assert opened.run(height, "#chain-table") > 0
