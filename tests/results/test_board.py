"""A leaderboard's site: the same bytes, nothing alive in it, and no place without a badge."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from boards import judged, make_bundle, many_rows, nobody

from calvin_eval.errors import UsageError
from calvin_eval.results.board.board import arrange
from calvin_eval.results.board.build import Built, build_site
from calvin_eval.results.board.pages import Pages
from calvin_eval.results.diagnosis import Diagnosis, Failure, Habits, records_digest
from calvin_eval.results.store import RunFolder
from handmade import follow_head

GOOD, MIDDLE, BAD = [5, 5, 4, 5] * 15, [3, 2, 3, 4] * 15, [0, 1, 0, 0] * 15


def build(bundles: list[Path], site: Path, judge: Any = None, **changes: Any) -> Built:
    settings = {"judge": judge or judged(), "version": "1.2.3", "title": "Board", **changes}
    return build_site(bundles, site, **settings)


def index(site: Path) -> Any:
    return json.loads((site / "index.json").read_text(encoding="utf-8"))


def contents(site: Path) -> dict[str, bytes]:
    files = (path for path in site.rglob("*") if path.is_file())
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    lengths = {"good": GOOD, "middle": MIDDLE, "bad": BAD}
    return [make_bundle(tmp_path, name, lengths[name]) for name in lengths]


def test_the_best_stands_first_with_its_numbers(three: list[Path], tmp_path: Path) -> None:
    build(three, tmp_path / "site")
    (section,) = index(tmp_path / "site")["sections"]
    rows = section["entries"]
    assert [row["name"] for row in rows] == ["good", "middle", "bad"]
    assert [row["standing"] for row in rows] == [
        {"group": i, "best": i, "worst": i} for i in (1, 2, 3)
    ]
    assert [round(row["average_length"], 3) for row in rows] == [4.75, 3.0, 0.25]
    assert rows[0]["rates"][4]["rate"] == 0.75
    assert section["groups"] == 3
    assert "Planned chains: expected 1000, found 60." in section["departures"]
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for text in ("4.75", "75.0", "Planned chains: expected 1000, found 60.", "all chains"):
        assert text in page


def test_two_builds_give_the_same_bytes(three: list[Path], tmp_path: Path) -> None:
    build(three, tmp_path / "one")
    moved = [Path(shutil.copy(path, tmp_path / f"moved-{path.name}")) for path in three]
    for path in moved:
        path.rename(path.with_name(path.name.removeprefix("moved-")))
    build(list(reversed(three)), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_has_not_changed_is_not_read_again(three: list[Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    first = build(three, site)
    stamps = {name: (site / name).stat().st_mtime_ns for name in contents(site)}
    again = build(three, site)
    assert (first.kept, again.written) == (0, 0)
    assert {name: (site / name).stat().st_mtime_ns for name in contents(site)} == stamps
    added = make_bundle(tmp_path, "fourth", [1] * 60)
    build([*three, added], site)
    build([*three, added], tmp_path / "anew")
    assert contents(site) == contents(tmp_path / "anew")


def test_what_is_gone_leaves_no_page(three: list[Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    build(three, site)
    build(three[:2], site)
    build(three[:2], tmp_path / "anew")
    left = {n for n in contents(site) if not n.startswith("records/")}
    assert left == {n for n in contents(tmp_path / "anew") if not n.startswith("records/")}
    assert not list(site.glob("entries/bad-*"))


def test_another_version_writes_everything_anew(three: list[Path], tmp_path: Path) -> None:
    build(three, tmp_path / "site")
    again = build(three, tmp_path / "site", version="1.2.4")
    assert again.written > 5


def test_a_folder_with_something_else_is_left_alone(three: list[Path], tmp_path: Path) -> None:
    site = tmp_path / "home"
    site.mkdir()
    (site / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        build(three, site)
    assert contents(site) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (nobody, "nobody has verified it"),
        (judged("unchecked"), "some of its chains could not be verified here"),
        (judged(sampled=9), "too few"),
    ],
)
def test_without_a_badge_there_is_no_place(
    three: list[Path], tmp_path: Path, judge: Any, why: str
) -> None:
    build(three, tmp_path / "site", judge)
    (section,) = index(tmp_path / "site")["sections"]
    assert {row["badge"]["level"] for row in section["entries"]} == {"none"}
    assert {row["standing"] for row in section["entries"]} == {None}
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert why in page
    assert "all chains</span>" not in page


def test_a_sample_has_its_own_badge(three: list[Path], tmp_path: Path) -> None:
    build(three, tmp_path / "site", judged(sampled=55))
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert page.count("55 of 60 chains verified") == 3
    assert index(tmp_path / "site")["sections"][0]["entries"][0]["badge"]["level"] == "sample"


def test_what_deviates_is_not_accepted(three: list[Path], tmp_path: Path) -> None:
    honest, forged = judged(), judged("deviates")

    def judge(bundle: Path, digest: Any) -> Any:
        return (forged if bundle.stem == "good" else honest)(bundle, digest)

    damaged = tmp_path / "zz.zip"
    damaged.write_bytes(b"PK\x03\x04 no")
    again = Path(shutil.copy(three[1], tmp_path / "middle2.zip"))
    built = build([*three, damaged, again], tmp_path / "site", judge)
    whys = {r.file: r.why for r in built.board.refused}
    assert set(whys) == {"good.zip", "middle2.zip", "zz.zip"}
    assert "chain 0: verdict: expected no success" in whys["good.zip"]
    assert whys["middle2.zip"] == "the same file as middle.zip"
    assert str(tmp_path) not in whys["zz.zip"]
    assert [row.entry.name for row in built.board.rows] == ["middle", "bad"]
    assert not list((tmp_path / "site").glob("entries/good-*"))


def test_a_run_with_errors_has_no_place(tmp_path: Path) -> None:
    broken = make_bundle(tmp_path, "broken", [5, -1, 5])
    whole = make_bundle(tmp_path, "whole", [1, 1, 1])
    build([broken, whole], tmp_path / "site")
    (section,) = index(tmp_path / "site")["sections"]
    assert [row["name"] for row in section["entries"]] == ["whole", "broken"]
    assert section["entries"][1]["standing"] is None
    assert "2 of 3" in (tmp_path / "site/index.html").read_text(encoding="utf-8")


def test_other_rules_and_other_chains_make_other_tables(tmp_path: Path) -> None:
    bundles = [
        make_bundle(tmp_path, "pinned", MIDDLE),
        make_bundle(tmp_path, "head", GOOD, change=follow_head),
        make_bundle(tmp_path, "fewer", GOOD[:30]),
        make_bundle(tmp_path, "shifted", GOOD,
                    change=lambda h: h["config"]["protocol"].update(shift="layout=2")),
    ]  # fmt: skip
    build(bundles, tmp_path / "site")
    sections = index(tmp_path / "site")["sections"]
    assert sorted(s["entries"][0]["name"] for s in sections) == [
        "fewer", "head", "pinned", "shifted",
    ]  # fmt: skip
    assert all(s["groups"] == 1 for s in sections)
    assert any("shifted by layout=2" in s["rules"] for s in sections)


def test_the_same_policy_elsewhere_is_linked(tmp_path: Path) -> None:
    one = make_bundle(tmp_path, "one", GOOD, key="reach")
    other = make_bundle(tmp_path, "other", GOOD[:30], key="reach")
    build([one, other], tmp_path / "site")
    pages = list((tmp_path / "site").glob("entries/*/index.html"))
    assert len(pages) == 2
    for page in pages:
        assert "The same policy elsewhere" in page.read_text(encoding="utf-8")


def diagnose(folder: RunFolder, digest: str | None = None) -> None:
    """A diagnosis of one failure."""
    habits = Habits(saturated=None, frozen=0.0, reversals=0.0, gripper_switches=0, joint_limit=0.0,
                    table_hits=0, first_contact=None, path=0.1)  # fmt: skip
    failure = Failure(
        chain=0, position=0, task="a", instruction="do a", steps=9, cause="nearly there", why="it",
        obstacle=None, target=(), touched=(), grasped=(), closest=0.1, closest_step=1,
        progress_end=0.5, progress_best=0.5, best_step=1, curve=(0.5,), achieved=(), habits=habits,
    )  # fmt: skip
    found = Diagnosis(
        records_sha256=digest or records_digest(folder.records()), instructions={"a": "do a"},
        lengths={"0": 0}, most=5, failures=(failure,), side_effects=(), undiagnosed=(),
    )  # fmt: skip
    folder.write_json("diagnosis.json", found.to_json())


def test_a_diagnosis_is_shown_where_a_bundle_has_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "mine", BAD, finish=diagnose)
    plain = make_bundle(tmp_path, "plain", BAD)
    other = make_bundle(tmp_path, "other", BAD, finish=lambda folder: diagnose(folder, "0" * 64))
    built = build([bundle, plain, other], tmp_path / "site")
    causes = {row.entry.name: row.entry.causes for row in built.board.rows}
    assert causes == {"mine": {"nearly there": 1}, "plain": None}
    assert "diagnosis of the chains" in built.board.refused[0].why
    pages = (tmp_path / "site").glob("entries/*/index.html")
    shown = [page.parent.name for page in pages if "Nearly there" in page.read_text("utf-8")]
    assert [name.rpartition("-")[0] for name in shown] == ["mine"]
    assert build([bundle, plain, other], tmp_path / "site").written == 0


def test_side_by_side(three: list[Path], tmp_path: Path) -> None:
    build(three, tmp_path / "site")
    pages = sorted((tmp_path / "site/compare").glob("*.html"))
    assert len(pages) == 3
    (path,) = (p for p in pages if p.name.startswith("good") and "bad" in p.name)
    text = path.read_text(encoding="utf-8")
    for part in ("../index.html", "Tasks in a row", "-4.500"):
        assert part in text
    assert "calvin-eval-" not in text  # a folder of this moment
    data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (data["pairs"][0]["first"], data["pairs"][0]["other"]) == ("good", "bad")
    assert len(data["pairs"][0]["flips"]) == 60


class Links(HTMLParser):
    """Where a page leads, what it runs, and which attributes could."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.targets.append(value)
            if name.startswith("on"):
                self.handlers.append(name)


def links(page: Path) -> Links:
    parser = Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_every_link_leads_somewhere(three: list[Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    build(three, site)
    seen = 0
    for page in site.rglob("*.html"):
        for target in links(page).targets:
            if re.match("https?:|data:|#", target):
                continue
            place = page.parent / unquote(target.partition("#")[0])
            assert place.is_file(), f"{page}: {target}"
            assert place.resolve().is_relative_to(site.resolve())
            seen += 1
    assert seen > 20


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\x1b[2J\u202egood\u2069"


def test_text_of_strangers_is_inert(tmp_path: Path) -> None:
    card = {
        "name": HOSTILE[:100], "description": HOSTILE, "notes": HOSTILE, "licence": HOSTILE[:100],
        "action_space": HOSTILE, "observation_space": [HOSTILE], "base_model": HOSTILE[:100],
        "links": {"code": "https://x.example/\"onmouseover=\"alert(3)"},
    }  # fmt: skip
    bundle = make_bundle(
        tmp_path, "x", GOOD, **card,
        change=lambda header: header["policy"].update(description=HOSTILE, ckpt="models/p.pt"),
    )  # fmt: skip
    other = make_bundle(tmp_path, "honest", BAD)
    build([bundle, other], tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 6
    for page in pages:
        found, text = links(page), page.read_text(encoding="utf-8")
        assert not found.handlers, page
        assert "img" not in found.tags, page
        assert found.tags.count("script") <= 1
        assert "alert(1)</script>" not in text
        assert not [t for t in found.targets if t.lower().startswith("javascript")]
        assert "\x1b" not in text
        assert "\u202e" not in text
    entry = next(p for p in (tmp_path / "site").glob("entries/*/index.html") if "honest" not in
                 p.parent.name)  # fmt: skip
    assert "\\x1b[2J\\u202e" in entry.read_text(encoding="utf-8")
    assert "{{7*7}}" in entry.read_text(encoding="utf-8")


@pytest.mark.slow
def test_five_hundred_entries(three: list[Path], tmp_path: Path) -> None:
    built = build(three[:1], tmp_path / "site")
    rows = many_rows(built.board.rows[0].entry, 500)
    board = arrange("Many", rows, [])
    assert len(board.rows) == 500
    pages = Pages(board)
    text = pages.index()
    assert text.count("<tr data-row") == 500
    assert len(text) < 2_000_000
    pairs = [pair for section in board.sections for pair in section.pairs()]
    assert len(pairs) < 1000  # the number of pages grows with the entries, not with their pairs
    mixed = arrange("Many", reversed([replace(row) for row in rows]), [])
    assert Pages(mixed).index() == text
