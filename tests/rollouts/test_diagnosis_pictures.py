"""Pictures and films of failures: what they show, and that they change no diagnosis."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import runner
from PIL import Image

from calvin_eval.cli.main import cli, main
from calvin_eval.results.diagnosis import read_diagnosis
from calvin_eval.results.illustrations import Illustration
from calvin_eval.results.report.diagnosis import DIAGNOSIS_HTML
from calvin_eval.results.report.strips import MOST_STRIP_BYTES
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.diagnosis.diagnose import diagnose_run
from calvin_eval.rollouts.diagnosis.illustrating import SIDE, spans

STEPS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the random policy: two chains, each failed at once."""
    out = tmp_path_factory.mktemp("random") / "run"
    assert main([
        "--ckpt", "builtin:random", "--split", "D", "--chains", "3,17", f"protocol.steps={STEPS}",
        "--workers", "0", "--quiet", "--out", str(out),
    ]) == 0  # fmt: skip
    return out


def frames(strip: bytes) -> list[np.ndarray]:
    picture = np.asarray(Image.open(BytesIO(strip)).convert("RGB")).astype(int)
    assert picture.shape == (SIDE, 6 * SIDE, 3)
    return np.split(picture, 6, axis=1)


@pytest.mark.slow
def test_pictures_show_the_moments_and_change_nothing(run: Path) -> None:
    folder = RunFolder.open(run)
    drawn: list[Illustration] = []
    found = diagnose_run(folder, show=drawn.append)
    assert found == diagnose_run(folder)
    assert [one.chain for one in drawn] == [3, 17]
    for one, failure in zip(drawn, found.failures, strict=True):
        start, closest, contact, best, end, expert = frames(one.strip)
        notes = {moment.name: moment.note for moment in one.moments}
        assert notes["closest"] == f"step {failure.closest_step}"
        assert notes["end"] == f"step {STEPS}"
        assert failure.from_begin is not None
        assert notes["expert"].endswith(f"in {failure.from_begin.steps} steps")
        assert failure.habits.first_contact is None
        assert notes["contact"] == "none"
        assert contact.std() < 4, "no contact, no picture"
        for picture in (start, closest, best, end, expert):
            assert picture.std() > 30
        assert np.abs(start - end).mean() > 1, "the arm has moved"
        assert np.abs(start - expert).mean() > 1
        assert len(one.strip) < MOST_STRIP_BYTES / 1000, "a thousand of them fit on the page"
        (stretch,) = one.course
        assert (stretch.task, stretch.steps, stretch.success) == (failure.task, STEPS, False)
        assert stretch.target == ()
        assert stretch.progress[0] == 0
        assert max(stretch.progress) == pytest.approx(failure.progress_best, abs=5e-4)


@pytest.mark.slow
def test_without_the_expert_his_frame_is_empty(run: Path) -> None:
    drawn: list[Illustration] = []
    diagnose_run(RunFolder.open(run), expert=False, show=drawn.append)
    assert {one.moments[-1].note for one in drawn} == {"not asked"}
    assert all(frames(one.strip)[-1].std() < 4 for one in drawn)


@pytest.mark.slow
def test_the_command_draws_and_films(run: Path) -> None:
    assert main(["diagnose", str(run), "--workers", "0", "--frames", "--videos", "1"]) == 0
    page = (run / DIAGNOSIS_HTML).read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 2
    (film,) = (run / "videos").iterdir()
    assert f'src="videos/{film.name}"' in page
    seen = iio.imread(film, plugin="FFMPEG")
    found = read_diagnosis(RunFolder.open(run))
    assert found is not None
    failure = next(f for f in found.failures if f"{f.chain:04d}" in film.name)
    assert failure.from_begin is not None
    hold = 21  # frames at an end
    assert len(seen) == max(STEPS, failure.from_begin.steps) + hold
    assert apart(seen[0]) < 4, "both begin in the same state"
    assert apart(seen[-1]) > 2 * apart(seen[0])


def apart(frame: np.ndarray) -> float:
    """Mean difference of the two sides' images, without label and badge."""
    sides: Any = frame[50:290].astype(int)
    return float(np.abs(sides[:, :320] - sides[:, 326:]).mean())


@pytest.mark.slow
def test_a_bundle_gets_no_pictures(tmp_path: Path) -> None:
    bundle = tmp_path / "mine.zip"
    bundle.write_bytes(b"")
    result = runner().invoke(cli, ["diagnose", str(bundle), "--frames"], standalone_mode=False)
    assert "expected a run folder with --frames" in str(result.exception)


def test_times_in_which_something_held() -> None:
    assert spans([False, True, True, False, True]) == ((1, 2), (4, 4))
    assert spans([]) == spans([False]) == ()
