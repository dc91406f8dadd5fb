"""Failures in pictures on the page: all that there is room for, and nothing beside it."""

from __future__ import annotations

import re

from made_diagnosis import large_diagnosis, made_diagnosis, made_failure
from made_pictures import made_pictures, made_stretch, made_strip

from calvin_eval.results.illustrations import Pictures
from calvin_eval.results.report.diagnosis import diagnosis_html, typical_chains
from calvin_eval.results.report.strips import MOST_STRIP_BYTES, WIDTH, cards, course

MOST_BYTES = 15 * 2**20


def test_a_thousand_failures_in_pictures_are_small_enough() -> None:
    """By those of a hundred, each strip as large as those of a thousand may be on the average."""
    found = large_diagnosis(100)
    strip = made_strip().ljust(MOST_STRIP_BYTES // 1000, b"\0")
    page = diagnosis_html(found, "mine", made_pictures(found.failures, strip))
    assert page.count("<figure id=") == 100
    assert 10e6 < 10 * len(page.encode()) < MOST_BYTES
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "nothing beside it"


def test_the_most_typical_come_first_where_there_is_no_room() -> None:
    found = large_diagnosis(40)
    rows = [(failure, "") for failure in found.failures]
    pictures, first = made_pictures(found.failures), typical_chains(found)
    room = 5 * len(made_strip()) + 1
    shown = [card.failure.chain for card in cards(rows, pictures, first, room)]
    assert shown == sorted(first[:5])
    assert cards(rows, Pictures(), first) == ()


def test_the_page_says_how_many_have_no_pictures() -> None:
    found = made_diagnosis([made_failure(0, "stalled"), made_failure(3, "stalled")])
    pictures = made_pictures(found.failures)
    half = Pictures(illustrations={0: pictures.illustrations[0]})
    page = diagnosis_html(found, "mine", half)
    assert "1 of 2\N{NO-BREAK SPACE}failures have no pictures here" in page
    assert 'href="#chain-0"' in page
    assert 'href="#chain-3"' not in page
    assert "have no pictures" not in diagnosis_html(found, "mine", pictures)
    assert "media-src" not in page


def test_a_film_is_played_from_beside_the_page() -> None:
    found = made_diagnosis([made_failure(4, "stalled")])
    pictures = made_pictures(found.failures)
    filmed = Pictures(
        illustrations=pictures.illustrations, videos={4: "videos/expert_chain0004.mp4"}
    )
    page = diagnosis_html(found, "mine", filmed)
    assert 'src="videos/expert_chain0004.mp4"' in page
    assert "media-src 'self' file:" in page


def test_a_course_has_its_subtasks_side_by_side() -> None:
    made = course([
        made_stretch("open_drawer", success=True, steps=100),
        made_stretch("turn_on_led", success=False, steps=300),
    ])  # fmt: skip
    assert [(one.x, one.width, one.failed) for one in made.sections] == [
        (0, WIDTH // 4, False), (WIDTH // 4, WIDTH - WIDTH // 4, True),
    ]  # fmt: skip
    assert made.sections[1].title == "turn_on_led: failed after 300 steps"
    first, second = (line.split() for line in made.progress)
    assert (first[0], first[-1], second[-1]) == ("0,30", "150,7", "600,7")
    target, _, closed = made.lanes
    assert target.startswith("M15 38h23"), "steps 10 to 25 of 400"
    assert closed.startswith("M15 54h23")
    assert course([]).sections == ()
