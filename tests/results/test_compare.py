"""Comparisons of made-up runs, against numbers that are computed in other ways."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from calvin_eval.cli.compare import compare
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.compare import Pair, compare_runs
from calvin_eval.results.compare_html import comparison_html
from calvin_eval.results.paired import holm, mcnemar, mean_difference, sign_flip_test
from handmade import TASKS, Change, follow_head, record, write_run


def pair(tmp_path: Path, first: Sequence[int], other: Sequence[int]) -> Pair:
    a = write_run(tmp_path / "a", [record(chain, n) for chain, n in enumerate(first)])
    b = write_run(tmp_path / "b", [record(chain, n) for chain, n in enumerate(other)])
    return compare_runs([a, b]).pairs[0]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(compare, list(map(str, arguments)))


RNG = np.random.default_rng(0)
FIRST = RNG.choice(6, size=200).tolist()
OTHER = [min(n + int(RNG.random() < 0.3), 5) if RNG.random() < 0.8 else 0 for n in FIRST]


@pytest.mark.parametrize(
    "steps", [[1, -2, 3, 0, 5], [1] * 6, [5, -5, 5, 4], [0, 0], [2, -1, -1, 3, -4, 1, 1, 2]]
)
def test_the_sign_flip_test_counts_all_ways_of_swapping(steps: list[int]) -> None:
    swapped = [
        abs(sum(s * d for s, d in zip(signs, steps, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(steps))
    ]
    expected = sum(total >= abs(sum(steps)) for total in swapped) / len(swapped)
    assert sign_flip_test(steps) == pytest.approx(expected)


@pytest.mark.slow
def test_the_sign_flip_test_on_a_thousand_chains_agrees_with_sampling() -> None:
    rng = np.random.default_rng(4)
    steps = rng.choice([-5, -2, -1, 0, 0, 0, 1, 2, 5], size=1000)
    found = stats.permutation_test(
        (steps,), np.mean, permutation_type="samples", n_resamples=5000, random_state=rng
    )
    assert sign_flip_test(steps.tolist()) == pytest.approx(found.pvalue, abs=0.03)


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    for one, other in ((0, 0), (1, 0), (3, 9), (40, 22)):
        tail = sum(stats.binom.pmf(k, one + other, 0.5) for k in range(min(one, other) + 1))
        assert mcnemar(one, other) == pytest.approx(min(2 * tail, 1.0))


def test_holm_by_hand() -> None:
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    assert found == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert list(found) == ["a", "b", "c", "d"]


def test_the_interval_of_many_chains_is_the_ordinary_one() -> None:
    steps = np.array(OTHER) - np.array(FIRST)
    found = mean_difference(steps.tolist(), 5)
    error = steps.std() / np.sqrt(len(steps))
    assert found.estimate == pytest.approx(steps.mean())
    assert (found.low, found.high) == pytest.approx(
        (steps.mean() - 1.96 * error, steps.mean() + 1.96 * error), abs=0.1
    )
    assert mean_difference(np.random.default_rng(9).permutation(steps).tolist(), 5) == found
    with pytest.raises(ValueError, match="at least one"):
        mean_difference([], 5)


def test_few_equal_differences_prove_little() -> None:
    found = mean_difference([0, 0, 0], 5)
    assert found.estimate == 0
    assert found.low < -2
    assert found.high > 2


def test_lengths_and_positions(tmp_path: Path) -> None:
    found = pair(tmp_path, FIRST, OTHER)
    assert found.chains == 200
    assert found.first_length == pytest.approx(np.mean(FIRST))
    assert found.difference.estimate == pytest.approx(np.mean(OTHER) - np.mean(FIRST))
    assert [row.position for row in found.positions] == [1, 2, 3, 4, 5]
    for row in found.positions:
        a, b = np.array(FIRST) >= row.position, np.array(OTHER) >= row.position
        assert (row.first, row.other) == (a.mean(), b.mean())
        assert (row.only_first, row.only_other) == ((a & ~b).sum(), (~a & b).sum())
        assert row.difference.low <= b.mean() - a.mean() <= row.difference.high
        tested = stats.binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue
        assert row.p == pytest.approx(tested)


def test_a_task_is_tested_on_attempts_that_both_made(tmp_path: Path) -> None:
    found = {row.task: row for row in pair(tmp_path, FIRST, OTHER).tasks}
    assert set(found) == set(TASKS)
    for place, task in enumerate(TASKS):
        both = [(a, b) for a, b in zip(FIRST, OTHER, strict=True) if min(a, b) >= place]
        row = found[task]
        assert row.common == len(both)
        assert row.only_first == sum(a > place >= b for a, b in both)
        assert row.only_other == sum(b > place >= a for a, b in both)
        assert row.first.total == sum(a >= place for a in FIRST)
        assert row.first.success == sum(a > place for a in FIRST)
        assert row.difference == pytest.approx((row.only_other - row.only_first) / row.common)
        assert row.p <= row.p_holm <= min(5 * row.p, 1)


def test_a_task_that_only_one_run_got_to_is_not_tested(tmp_path: Path) -> None:
    rows = {row.task: row for row in pair(tmp_path, [1] * 8, [0] * 8).tasks}
    assert (rows["b"].common, rows["b"].difference, rows["b"].p_holm) == (0, None, 1.0)
    assert (rows["b"].first.total, rows["b"].other.total) == (8, 0)
    assert rows["a"].p == pytest.approx(2 / 2**8)
    assert rows["a"].p_holm == rows["a"].p, "one task was tested"


@pytest.mark.slow
def test_equal_policies_are_rarely_called_different() -> None:
    rng = np.random.default_rng(6)
    found = [
        sign_flip_test((rng.choice(6, size=60) - rng.choice(6, size=60)).tolist())
        for _ in range(500)
    ]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.08


def test_flipped_chains_tell_where_they_broke_off(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [record(k, n) for k, n in ((3, 2), (5, 5), (8, 1), (9, 4))])
    b = write_run(tmp_path / "b", [record(k, n) for k, n in ((3, 2), (5, 0), (8, 2), (9, 5))])
    (a / "videos").mkdir()
    (a / "videos" / "chain0005.mp4").touch()
    comparison = compare_runs([a, b])
    flips = comparison.pairs[0].flips
    assert [flip.chain for flip in flips] == [5, 8, 9]
    assert (flips[0].first_broke, flips[0].other_broke) == (None, "a")
    assert (flips[1].first_broke, flips[1].other_broke) == ("b", "c")
    assert (flips[0].first_video, flips[0].other_video) == ("videos/chain0005.mp4", None)
    page = comparison_html(comparison, tmp_path)
    assert 'href="a/videos/chain0005.mp4"' in page
    assert page.count("<a href=") == 1


def test_only_chains_completed_in_both_count_and_it_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [record(k, 3) for k in range(6)], planned=range(8))
    broken = [record(k, 1) for k in range(1, 4)] + [record(4, 0, error=True)]
    b = write_run(tmp_path / "b", broken, planned=range(8))
    found = compare_runs([a, b]).pairs[0]
    assert (found.chains, found.first_length, found.other_length) == (3, 3.0, 1.0)
    said = " ".join(found.remarks)
    assert "a is incomplete: 6 of 8 chains completed, 0 ended by an error" in said
    assert "b is incomplete: 3 of 8 chains completed, 1 ended by an error" in said
    assert "3 chains of a have no partner" in said
    assert "6 of 8 chains completed" in call(a, b).stdout


REFUSED: Mapping[str, Change] = {
    "assets.fingerprint: a1ae2c2341e5 and bbbbbbbbbbbb": lambda h: h["assets"].update(
        fingerprint="b" * 64
    ),
    "revision: pinned and head": follow_head,
    "renderer.backend: egl and tiny": lambda h: h["renderer"].update(backend="tiny"),
    "protocol.steps: 360 and 60": lambda h: h["config"]["protocol"].update(steps=60),
    "instructions.sha256: 3bbd672982b9 and ffffffffffff": lambda h: h["instructions"].update(
        sha256="f" * 64
    ),
    "sim.deterministic: true and false": lambda h: h["config"]["sim"].update(deterministic=False),
}


@pytest.mark.parametrize("text", REFUSED)
def test_runs_under_other_rules_are_refused_unless_forced(tmp_path: Path, text: str) -> None:
    a = write_run(tmp_path / "a", [record(1, 3)])
    b = write_run(tmp_path / "b", [record(1, 3)], change=REFUSED[text])
    with pytest.raises(RunFolderError, match=re.escape(text)):
        compare_runs([a, b])
    forced = compare_runs([a, b], force=True)
    assert forced.forced
    assert [str(d) for d in forced.pairs[0].differences] == [text]
    assert "Forced" in comparison_html(forced, tmp_path)
    shown = call(a, b, "--force")
    assert shown.exit_code == 0
    assert "Forced: the runs differ in" in " ".join(shown.stdout.split())


def test_a_refusal_names_every_difference(tmp_path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        for other in REFUSED.values():
            other(header)

    a = write_run(tmp_path / "a", [record(1, 3)])
    b = write_run(tmp_path / "b", [record(1, 3)], change=change)
    with pytest.raises(RunFolderError) as refusal:
        compare_runs([a, b])
    for text in REFUSED:
        assert text in str(refusal.value)


def test_what_is_no_difference(tmp_path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["renderer"].update(renderer="A100")
        header["config"]["protocol"].update(num_chains=1, instructions="/elsewhere/same.yaml")
        header["policy"].update(sha256="8" * 64)

    a = write_run(tmp_path / "a", [record(1, 3)])
    b = write_run(tmp_path / "b", [record(1, 3)], change=change)
    (found,) = compare_runs([a, b]).pairs
    assert not found.differences
    assert found.remarks == (
        "The images come from other drivers: renderer.renderer: llvmpipe and A100.",
    )
    own = write_run(
        tmp_path / "own", [record(1, 3)], change=lambda h: h["renderer"].update(backend="fast")
    )
    (found,) = compare_runs([a, own]).pairs
    assert not found.differences, "it draws the same images"
    assert "renderer.backend: egl and fast" in found.remarks[0]
    other = write_run(
        tmp_path / "other", [record(1, 3)],
        change=lambda h: h["renderer"].update(backend="fast", options={"depth_bits": 24}),
    )  # fmt: skip
    with pytest.raises(RunFolderError, match=r"renderer.backend: egl and fast, depth_bits=24"):
        compare_runs([a, other])
    blind = write_run(
        tmp_path / "c", [record(1, 3)], change=lambda h: h["renderer"].update(backend="none")
    )
    assert not compare_runs([a, blind]).pairs[0].differences, "it looks at no image"


def test_the_same_id_must_be_the_same_chain_even_by_force(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [record(1, 3)])
    b = write_run(tmp_path / "b", [record(1, 3, tasks=TASKS[::-1])])
    with pytest.raises(RunFolderError, match="the same chain 1, found a, b"):
        compare_runs([a, b], force=True)
    c = write_run(tmp_path / "c", [record(2, 3)])
    with pytest.raises(RunFolderError, match="found none"):
        compare_runs([a, c])
    with pytest.raises(UsageError, match="two or more"):
        compare_runs([a])


def test_three_runs_stand_against_the_first(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name / "run", [record(k, n) for k in range(30)])
        for name, n in (("x", 2), ("y", 3), ("z", 1))
    ]
    comparison = compare_runs(runs)
    assert [run.name for run in comparison.runs] == ["x/run", "y/run", "z/run"]
    assert [p.difference.estimate for p in comparison.pairs] == [1.0, -1.0]
    shown = call(*runs)
    assert "y/run against x/run" in shown.stdout
    assert "+1.000" in shown.stdout
    assert "-1.000" in shown.stdout


def test_the_page_and_the_json_of_the_command(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [record(chain, n) for chain, n in enumerate(FIRST)])
    b = write_run(
        tmp_path / "b",
        [record(chain, n) for chain, n in enumerate(OTHER)],
        change=lambda h: h["policy"].update(description="<b>me & you</b> in models/p.pt"),
    )
    done = call(a, b, "-o", tmp_path / "page.html", "-o", tmp_path / "data.json")
    assert done.exit_code == 0, done.exception
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["runs"][0] == {
        "name": "a", "policy": "TorchScript policy p.pt", "planned": 200, "completed": 200,
        "errors": 0,
    }  # fmt: skip
    (found,) = data["pairs"]
    assert found["difference"]["estimate"] == pytest.approx(np.mean(OTHER) - np.mean(FIRST))
    assert len(found["flips"]) == sum(a != b for a, b in zip(FIRST, OTHER, strict=True))
    assert len(found["tasks"]) == 5
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;me &amp; you" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=.?(http|//)", page), "nothing is fetched from elsewhere"
    assert str(tmp_path) not in page + (tmp_path / "data.json").read_text()
    assert json.loads(call(a, b, "--json").stdout) == data
    assert "prefers-color-scheme: dark" in page
