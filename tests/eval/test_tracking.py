"""Runs in trackers: what is written is read back, by the tracker's own code where it is there."""

from __future__ import annotations

import io
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from requirements import need_package

from calvin_eval.cli.track import parse_target
from calvin_eval.cli.track import track as command
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.running import tracking

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "schema_1"
FPS = 20


def film(path: Path, frames: int, size: tuple[int, int] = (480, 240)) -> None:
    """A video in which every frame differs: a white bar that grows."""
    path.parent.mkdir(exist_ok=True)
    width, height = size
    images = np.zeros((frames, height, width, 3), np.uint8)
    for index, image in enumerate(images):
        image[:, : 1 + index * (width - 1) // frames] = 255
    if path.suffix != ".mp4":
        stills = [Image.fromarray(image) for image in images]
        options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
        stills[0].save(path, save_all=True, append_images=stills[1:], duration=50, **options)
        return
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=FPS, macro_block_size=1)
    writer.send(None)
    for image in images:
        writer.send(image)
    writer.close()


def done(record: ChainRecord, chain: int, length: int) -> ChainRecord:
    """The chain, had so many of its tasks been done."""
    like = record.subtasks[0]
    subtasks = tuple(
        replace(like, task=task, success=i < length)
        for i, task in enumerate(record.tasks[: length + 1])
    )
    return replace(record, chain=chain, subtasks=subtasks)


def make_run(path: Path, planned: int) -> RunFolder:
    """A run of which three chains are completed, with 5, 2 and 0 tasks done."""
    stored = RunFolder.open(GOLDEN)
    header = stored.document()
    header["chains"]["planned"] = list(range(planned))
    folder = RunFolder.create(path, header)
    with folder.journal() as journal:
        for chain, length in enumerate((5, 2, 0)):
            journal.append(done(stored.records()[0], chain, length))
    folder.write_json("profile.json", stored.read_json("profile.json"))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "mine", 3)


@pytest.fixture
def partial(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "part", 4)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def log(run: RunFolder, target: str) -> None:
    """The command, with its error as Python's."""
    outcome = call(run.path, "--to", target)
    if outcome.exception is not None:
        raise outcome.exception


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Per tag the steps and values of all events in a folder, read by TensorBoard itself."""
    need_package("tensorboard", "the extra tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(folder.iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def test_the_scalars_are_those_of_the_summary(run: RunFolder) -> None:
    scalars = tracking.collect(run, 0).scalars
    assert scalars["average_length"] == pytest.approx(7 / 3)
    assert scalars["average_length_low"] <= 7 / 3 <= scalars["average_length_high"]
    rates = [scalars[f"success_rate/{i}"] for i in range(1, 6)]
    assert rates == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    tasks = run.records()[0].tasks
    assert scalars[f"task/{tasks[0]}"] == pytest.approx(2 / 3)
    assert scalars[f"task/{tasks[2]}"] == pytest.approx(1 / 2)
    assert scalars["run/completeness"] == 1
    assert scalars["run/errors"] == 0
    assert scalars["run/steps_per_second"] == run.read_json("profile.json")["steps_per_second"]
    assert not [name for name in scalars if name.startswith("partial/")]


def test_a_partial_run_has_no_headline(partial: RunFolder) -> None:
    tracked = tracking.collect(partial, 0)
    plain = {name for name in tracked.scalars if not name.startswith("partial/")}
    assert plain == {"run/completeness", "run/errors", "run/steps_per_second"}
    assert tracked.scalars["partial/average_length"] == pytest.approx(7 / 3)
    assert tracked.scalars["partial/success_rate/1"] == pytest.approx(2 / 3)
    assert tracked.scalars["run/completeness"] == 0.75
    assert "withheld" in tracked.report.lower()


def test_a_run_without_records_or_profile(run: RunFolder) -> None:
    (run.path / "profile.json").unlink()
    (run.path / "chains.jsonl").unlink()
    tracked = tracking.collect(run, 0)
    assert tracked.scalars == {"run/completeness": 0, "run/errors": 0}
    assert tracked.tasks == ()


def test_the_configuration_comes_without_the_list_of_chains(run: RunFolder) -> None:
    config = tracking.collect(run, 0).config
    assert config["chains"]["planned"] == 3
    assert config["config"]["protocol"]["steps"] == 20
    assert config["verdict"]["official"] is False
    assert dict(tracking.flatten(config["config"]))["protocol.steps"] == 20.0
    assert dict(tracking.flatten({"a": {"b": None, "c": [1], "d": True}})) == {
        "a.b": "null", "a.c": "[1]", "a.d": True,
    }  # fmt: skip


def test_failures_are_filmed_first_and_no_chain_twice(run: RunFolder) -> None:
    for name in ("chain0000.mp4", "chain0001.gif", "chain0001.mp4", "chain0002.mp4", "other.mp4"):
        (run.path / "videos").mkdir(exist_ok=True)
        (run.path / "videos" / name).write_bytes(b"")
    names = [(name, path.name) for name, path in tracking.collect(run, 12).videos]
    assert sorted(names[:2]) == [("chain0001", "chain0001.mp4"), ("chain0002", "chain0002.mp4")]
    assert names[2:] == [("chain0000", "chain0000.mp4")]
    assert len(tracking.collect(run, 2).videos) == 2
    assert tracking.collect(run, 0).videos == ()


def test_the_table_of_tasks_has_bars(run: RunFolder) -> None:
    tracked = tracking.collect(run, 0)
    lines = tracking.task_table(tracked.tasks).splitlines()
    assert len(lines) == 2 + 5
    bars = [line.count("\N{FULL BLOCK}") for line in lines[2:]]
    assert bars == [round(20 * (count.rate or 0)) for _, count in tracked.tasks]
    assert bars[0] == 20


@pytest.mark.parametrize(
    ("kind", "frames", "kept", "delay"),
    [("mp4", 60, 60, 50), ("mp4", 61, 31, 100), ("gif", 150, 38, 200), ("webp", 70, 35, 100)],
)
@pytest.mark.slow
def test_animations_are_small_and_keep_their_tempo(
    tmp_path: Path, kind: str, frames: int, kept: int, delay: int
) -> None:
    film(tmp_path / "videos" / f"v.{kind}", frames)
    data, size = tracking.animation(tmp_path / "videos" / f"v.{kind}")
    with Image.open(io.BytesIO(data)) as gif:
        assert gif.format == "GIF"
        assert gif.size == size == (320, 160)
        assert gif.n_frames == kept  # type: ignore[attr-defined]
        assert gif.info["duration"] == delay
        white = []
        for index in (0, kept // 2, kept - 1):
            gif.seek(index)
            white.append(float(np.asarray(gif.convert("L")).mean()))
        total = 0
        for index in range(kept):
            gif.seek(index)
            total += gif.info["duration"]
    assert white[0] < 20 < white[1] < white[2], "frames are in order, first to last"
    assert white[2] > 230
    assert total == 50 * frames


def test_a_broken_video_stops_before_anything_is_written(run: RunFolder, tmp_path: Path) -> None:
    need_package("tensorboard", "the extra tensorboard")
    (run.path / "videos").mkdir()
    (run.path / "videos" / "chain0001.mp4").write_bytes(b"not a video")
    with pytest.raises(RunFolderError, match=r"chain0001\.mp4.*calvin-eval video"):
        log(run, f"tensorboard:{tmp_path / 'logs'}")
    assert not (tmp_path / "logs").exists()


def test_tensorboard_reads_back_what_was_logged(run: RunFolder, tmp_path: Path) -> None:
    need_package("tensorboard", "the extra tensorboard")
    film(run.path / "videos" / "chain0002.mp4", 10)
    logs = tmp_path / "logs"
    outcome = call(run.path, "--to", f"tensorboard:{logs}", "--step", 7)
    assert outcome.exit_code == 0, outcome.exception
    assert f"tensorboard --logdir {logs}" in outcome.stdout
    found = events(logs)
    assert {step for values in found.values() for step, _ in values} == {7}
    tracked = tracking.collect(run, 12)
    for name, number in tracked.scalars.items():
        ((_, value),) = found[name]
        assert value.simple_value == pytest.approx(number)
    texts = {name: found[name][0][1].tensor.string_val[0].decode() for name in ("report", "tasks")}
    assert texts == {"report": tracked.report, "tasks": tracking.task_table(tracked.tasks)}
    assert b'"steps": 20' in found["config"][0][1].tensor.string_val[0]
    image = found["video/chain0002"][0][1].image
    assert (image.width, image.height) == (320, 160)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert gif.n_frames == 10  # type: ignore[attr-defined]


def test_tensorboard_shows_the_hyperparameters_and_the_verdict(
    run: RunFolder, tmp_path: Path
) -> None:
    need_package("tensorboard", "the extra tensorboard")
    from tensorboard.plugins.hparams import metadata

    log(run, f"tensorboard:{tmp_path / 'logs'}")
    value = events(tmp_path / "logs")[metadata.SESSION_START_INFO_TAG][0][1]
    content = value.metadata.plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["ckpt"].string_value == "builtin:random"
    assert hparams["protocol.steps"].number_value == 20
    assert hparams["verdict.official"].bool_value is False
    assert "asset pack" in hparams["verdict.reasons"].string_value


def test_steps_make_a_curve(run: RunFolder, partial: RunFolder, tmp_path: Path) -> None:
    need_package("tensorboard", "the extra tensorboard")
    for step, folder in enumerate((run, run, partial)):
        assert call(folder.path, "--to", f"tensorboard:{tmp_path / 'logs'}",
                    "--step", step).exit_code == 0  # fmt: skip
    found = events(tmp_path / "logs")
    assert sorted(step for step, _ in found["average_length"]) == [0, 1]
    assert [step for step, _ in found["partial/average_length"]] == [2]
    assert [step for step, _ in found["partial/tasks"]] == [2]


def test_a_folder_that_cannot_be_written(run: RunFolder, tmp_path: Path) -> None:
    need_package("tensorboard", "the extra tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"expected a folder that can be written.*name another"):
        log(run, f"tensorboard:{tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tensorbord:x", r"unknown tracker 'tensorbord'.*Did you mean 'tensorboard'"),
        ("logs", "unknown tracker 'logs': expected one of tensorboard, wandb"),
        ("wandb:", "expected tensorboard:DIR or wandb:PROJECT, found 'wandb:'"),
    ],
)
def test_other_targets_are_refused(run: RunFolder, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        log(run, target)


def test_a_target_may_hold_colons() -> None:
    assert parse_target("tensorboard:logs/a:b") == ("tensorboard", "logs/a:b")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_remedy(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf'pip install "calvin-eval\[{name}\]"'):
        log(run, f"{name}:{tmp_path / 'logs'}")
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_tracking_needs_no_simulator_and_no_torch() -> None:
    import subprocess

    script = (
        "import sys, calvin_eval.running.tracking as t\n"
        "from calvin_eval.results.store import RunFolder\n"
        f"t.collect(RunFolder.open({str(GOLDEN)!r}), 1)\n"
        "print(*sorted({'torch', 'pybullet', 'hydra', 'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == ""


class FakeRun:
    url = "https://wandb.example/run"

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.finished = False

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self.logged.append((data, step))

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.finished = True


class FakeError(Exception):
    pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stands for wandb: keeps what it was given."""
    run, started = FakeRun(), []

    def init(**options: Any) -> FakeRun:
        started.append(options)
        return run

    keep: Any = lambda *a, **k: (a, k)  # noqa: E731
    module: Any = types.SimpleNamespace(
        init=init, Settings=keep, Table=keep, Video=keep, Html=keep, Error=FakeError,
        plot=types.SimpleNamespace(bar=keep), run=run, started=started,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module  # type: ignore[no-any-return]


def test_wandb_gets_everything(run: RunFolder, fake: types.SimpleNamespace) -> None:
    film(run.path / "videos" / "chain0001.webp", 3)
    film(run.path / "videos" / "chain0002.mp4", 3)
    outcome = call(run.path, "--to", "wandb:team/calvin", "--step", 5)
    assert outcome.exit_code == 0, outcome.exception
    assert fake.run.url in outcome.stdout
    assert fake.run.finished
    (options,) = fake.started
    assert (options["entity"], options["project"], options["name"]) == ("team", "calvin", "mine")
    tracked = tracking.collect(run, 12)
    assert options["config"] == tracked.config
    ((logged, step),) = fake.run.logged
    assert step == 5
    assert {name: logged[name] for name in tracked.scalars} == tracked.scalars
    (path,), how = logged["video/chain0002"]
    assert (path, how) == (str(run.path / "videos" / "chain0002.mp4"), {"format": "mp4"})
    (data,), how = logged["video/chain0001"]
    assert how == {"format": "gif"}
    assert data.read(3) == b"GIF"
    assert "builtin:random" in logged["report"][0][0]
    (_, table), *_ = logged["tasks"][0]
    assert [row[0] for row in table["data"]] == [name for name, _ in tracked.tasks]


def test_wandb_gets_no_headline_of_a_partial_run(
    partial: RunFolder, fake: types.SimpleNamespace
) -> None:
    log(partial, "wandb:calvin")
    ((logged, step),) = fake.run.logged
    assert step is None
    assert "partial/tasks" in logged
    assert not {"average_length", "tasks", "success_rate/1"} & set(logged)
    assert fake.started[0]["entity"] is None


def test_what_wandb_refuses_is_the_users_to_mend(
    run: RunFolder, fake: types.SimpleNamespace
) -> None:
    def refuse(**_: Any) -> None:
        raise FakeError("no api key")

    fake.init = refuse
    with pytest.raises(UsageError, match=r"no api key.*wandb login.*WANDB_MODE=offline"):
        log(run, "wandb:calvin")


@pytest.mark.slow
def test_the_real_wandb_takes_a_run_offline(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_package("wandb", "the extra wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    film(run.path / "videos" / "chain0001.webp", 3)
    film(run.path / "videos" / "chain0002.mp4", 3)
    log(run, "wandb:calvin")
    (stored,) = tmp_path.glob("wandb/offline-run-*")
    assert list(stored.glob("*.wandb"))
    media = {path.suffix for path in stored.rglob("media/**/*") if path.is_file()}
    assert media == {".gif", ".mp4", ".html", ".json"}
    (table,) = stored.rglob("*.table.json")
    tasks = [row[0] for row in json.loads(table.read_text())["data"]]
    assert tasks == [name for name, _ in tracking.collect(run, 0).tasks]
