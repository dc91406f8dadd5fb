"""Videos: what is filmed, what a file holds, and that nothing of it can reach the run."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from child_processes import children_of
from command_line import runner
from PIL import Image
from waiting import wait_until

from calvin_eval.cli.video import simulator_of, video
from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.rollouts.replay import ReplayError
from calvin_eval.rollouts.video.files import VideoFile, has_videos, remove_remains, remove_videos
from calvin_eval.rollouts.video.films import (
    HOLD_SECONDS,
    Filmer,
    VideoSpec,
    parse_which,
    wanted,
)
from calvin_eval.rollouts.video.frames import Caption, FrameComposer
from calvin_eval.rollouts.video.pool import VideoPool
from calvin_eval.rollouts.worker import SimulatorSpec, connect
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.render import resolve_backend

pytestmark = pytest.mark.processes

STEPS = 6
HOLD = round(HOLD_SECONDS * 30)
SMALL = VideoSpec(height=48, cameras=("static", "gripper"))


def subtask(success: bool, task: str = "lift") -> SubtaskRecord:
    return SubtaskRecord(
        task=task, instruction="do", success=success, steps=3, seconds=0.0, state_hash="0"
    )


def record(successes: str, *, error: bool = False, chain: int = 0) -> ChainRecord:
    """`110` is two subtasks done and one failed, of three."""
    return ChainRecord(
        chain=chain,
        initial_state={},
        tasks=("lift",) * 3,
        subtasks=tuple(subtask(s == "1") for s in successes),
        status="error" if error else "completed",
        error="oh" if error else None,
    )


@pytest.mark.parametrize(
    ("which", "per", "ends", "expected"),
    [
        ("all", "chain", "110", (0, 1, 2)),
        ("none", "chain", "110", ()),
        ("failures", "chain", "110", (0, 1, 2)),
        ("failures", "chain", "111", ()),
        ("successes", "chain", "111", (0, 1, 2)),
        ("successes", "chain", "110", ()),
        ("failures", "subtask", "110", (2,)),
        ("successes", "subtask", "110", (0, 1)),
        ("all", "subtask", "10", (0, 1)),
    ],
)
def test_what_is_filmed(which: Any, per: Any, ends: str, expected: tuple[int, ...]) -> None:
    assert wanted(VideoSpec(which=which, per=per), record(ends), [0]) == expected


def test_an_error_is_filmed_up_to_where_it_broke_off() -> None:
    broken = record("1", error=True)
    assert wanted(VideoSpec(which="failures"), broken, [0]) == (0, 1)
    assert wanted(VideoSpec(which="failures", per="subtask"), broken, [0]) == (1,)
    assert wanted(VideoSpec(which="successes"), broken, [0]) == ()


def test_the_first_n_are_those_of_the_list_and_not_those_that_finish_first() -> None:
    spec = VideoSpec(which=2)
    assert [c for c in (9, 7, 5, 3) if wanted(spec, record("0", chain=c), [3, 5, 7, 9])] == [5, 3]


@pytest.mark.parametrize(
    ("text", "which"), [("all", "all"), ("3", 3), (12, 12), (None, "none"), ("none", "none")]
)
def test_a_choice_is_read(text: object, which: object) -> None:
    assert parse_which(text) == which


@pytest.mark.parametrize("text", ["0", "-1", "failure", "1.5", True, ""])
def test_a_choice_that_cannot_be_meant(text: object) -> None:
    with pytest.raises(UnknownNameError, match="choice of videos"):
        parse_which(text)


@pytest.mark.parametrize(
    "change",
    [{"format": "avi"}, {"per": "step"}, {"cameras": ()}, {"height": 8}, {"fps": 0}, {"which": 0}],
)
def test_a_specification_that_cannot_be_meant(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VideoSpec(**change)


CAPTION = Caption(chain=3, position=1, subtasks=5, task="lift", instruction="lift it", budget=10)


def test_a_frame_holds_the_images_and_a_caption_that_changes_with_what_it_says() -> None:
    frames = FrameComposer([(200, 200), (100, 200)])
    left, right = np.full((200, 200, 3), 90, np.uint8), np.full((200, 100, 3), 30, np.uint8)
    first = frames.compose([left, right], CAPTION, 1)
    assert first.shape == (frames.size[1], frames.size[0], 3)
    assert (first[:200, :200] == 90).all()
    assert (first[:200, 204:304] == 30).all()
    assert np.ptp(first[200:]) > 150  # light text on a dark bar
    for other in (
        frames.compose([left, right], CAPTION, 2),
        frames.compose([left, right], replace(CAPTION, instruction="push it"), 1),
        frames.compose([left, right], replace(CAPTION, task="push"), 1),
        frames.compose([left, right], replace(CAPTION, position=2), 1),
        frames.compose([left, right], CAPTION, 1, "success"),
    ):
        assert (other[200:] != first[200:]).any()
    done, failed = (frames.compose([left, right], CAPTION, 1, v) for v in ("success", "failed"))
    green, red = (frame[:40, :80].reshape(-1, 3).mean(0) for frame in (done, failed))
    assert green.argmax() == 1
    assert red.argmax() == 0


@pytest.mark.parametrize("width", [33, 48, 400])
def test_any_instruction_fits_and_sizes_are_even(width: int) -> None:
    frames = FrameComposer([(width, 33)])
    image = np.zeros((33, width, 3), np.uint8)
    caption = replace(CAPTION, instruction="a very long sentence " * 20, budget=None)
    frame = frames.compose([image], caption, 12345)
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0


def test_a_first_step_may_be_less_than_a_pixel_of_the_budget() -> None:
    frames = FrameComposer([(40, 40)])
    caption, image = replace(CAPTION, budget=360), np.zeros((40, 40, 3), np.uint8)
    shown = [frames.compose([image], caption, step)[40:42] for step in (0, 1, 360)]
    assert (shown[0] == shown[1]).all()
    assert (shown[1] != shown[2]).any()


def test_a_file_that_the_encoder_cannot_write_is_not_left_behind(tmp_path: Path) -> None:
    target = tmp_path / "chain0000.mp4"
    target.mkdir()  # no file can get this name
    (tmp_path / "chain0001.mp4").write_bytes(b"the old one")
    black = np.zeros((16, 16, 3), np.uint8)
    with VideoFile(target, 30) as film:
        film.add(black)
        with pytest.raises(IsADirectoryError):
            film.publish()
    with VideoFile(tmp_path / "chain0001.mp4", 30) as film:
        film.add(black)  # and then never published
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain0000.mp4", "chain0001.mp4"]
    assert (tmp_path / "chain0001.mp4").read_bytes() == b"the old one"


def test_what_dead_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ours = f".chain0001.{os.getpid()}.mp4"
    for name in (f".chain0000.{gone.pid}.mp4", ours, "chain0002.mp4", ".chain"):
        (tmp_path / name).touch()
    remove_remains(tmp_path)
    assert names(tmp_path) == [".chain", ours, "chain0002.mp4"]


def test_the_videos_of_a_chain_are_found_and_no_others(tmp_path: Path) -> None:
    for name in ("chain0001.mp4", "chain0001_sub2.gif", "chain0012.mp4", "chain00010.mp4"):
        (tmp_path / name).touch()
    assert has_videos(tmp_path, 1)
    remove_videos(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain00010.mp4", "chain0012.mp4"]


def run_folder(path: Path, *overrides: str, chains: str = "0,1,2") -> RunFolder:
    """A run of random actions, made in this process."""
    config = compose_config(
        [f"protocol.steps={STEPS}", "engine.workers=0", *overrides],
        {"ckpt": "builtin:random", "protocol.select": chains},
    )
    policy = open_policy(config)
    plan = make_plan(gather_inputs(config), policy)
    folder = RunFolder.create(path, plan.header.document)
    assignment = plan.assignment(0)
    env = assignment.simulator.build()
    runner = ChainRunner(
        env,
        TaskOracle("builtin"),
        connect(assignment.policy),
        instructions=assignment.instructions,
        rules=assignment.rules,
    )
    with folder.journal() as journal:
        for chain in plan.inputs.chains:
            outcome = runner.run(chain)
            folder.write_actions(chain.id, outcome.actions)
            journal.append(outcome.record)
    env.close()
    policy.close()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_folder(tmp_path_factory.mktemp("video") / "run")


@pytest.fixture
def simulator(run: RunFolder) -> SimulatorSpec:
    return simulator_of(run, None, "tiny")


def film(run: RunFolder, spec: VideoSpec, out: Path, chain: int = 0) -> list[Path]:
    filmer = Filmer(spec, run, simulator_of(run, None, "tiny"), out)
    try:
        return filmer.film(run.records()[chain], (0,))
    finally:
        filmer.close()


def streams(path: Path) -> str:
    """What ffmpeg says about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_an_mp4_plays_in_browsers_in_real_time(run: RunFolder, tmp_path: Path) -> None:
    (path,) = film(run, SMALL, tmp_path)
    assert path == tmp_path / "chain0000.mp4"
    said = streams(path)
    assert "h264" in said
    assert "yuv420p(" in said
    assert "30 fps" in said
    width, height = FrameComposer([(48, 48)] * 2).size
    assert f"{width}x{height}" in said
    assert imageio_ffmpeg.count_frames_and_secs(path)[0] == 1 + STEPS + HOLD
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # starts before all of it is there
    assert [p.name for p in tmp_path.iterdir()] == ["chain0000.mp4"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animated_images_last_as_long_and_loop(run: RunFolder, tmp_path: Path, kind: str) -> None:
    (path,) = film(run, replace(SMALL, format=kind), tmp_path)
    seconds = 0.0
    with Image.open(path) as image:
        assert image.format == kind.upper()
        assert image.size == FrameComposer([(48, 48)] * 2).size
        assert image.info["loop"] == 0
        for i in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(i)
            image.load()
            seconds += image.info["duration"] / 1000
    assert seconds == pytest.approx((1 + STEPS + HOLD) / 30, abs=0.02)


def test_the_film_shows_what_the_simulator_draws(run: RunFolder, tmp_path: Path) -> None:
    (path,) = film(run, replace(SMALL, cameras=("static",), height=96), tmp_path)
    frames = imageio_ffmpeg.read_frames(path)
    width, height = next(frames)["size"]
    shown = [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in frames]
    spec = replace(simulator_of(run, None, "tiny"), cameras=("static",))
    env = spec.build()
    from calvin_eval.sim.chains import load_chains

    chain = load_chains("official")[0]
    env.start(chain.robot_obs, chain.scene_obs)
    for action in [*run.read_actions(0)[0], None]:
        drawn = env.observe(rgb=("static",))["rgb_obs"]["rgb_static"]
        truth = np.asarray(Image.fromarray(drawn).resize((96, 96), Image.Resampling.BOX))
        frame = shown.pop(0)
        assert np.abs(frame[:96, :96].astype(int) - truth).mean() < 12
        if action is not None:
            env.advance(action)
    env.close()
    assert len(shown) == HOLD


VARIANTS = [
    ("protocol.chains=dev",),
    ("protocol.chains=single:1:open_drawer+close_drawer",),
    ("protocol.world_reset=subtask",),
    ("split=A",),
    ("split=B",),
    ("split=C", "protocol.chains=dev"),
    ("split=A", "protocol.layout=upstream"),
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=" ".join)
def test_variants_of_the_protocol_can_be_repeated(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An oracle that is always content makes chains of several subtasks.
    monkeypatch.setattr(TaskOracle, "achieved", lambda *args: {"anything"})
    single = "single" in overrides[0]
    folder = run_folder(tmp_path / "run", *overrides, chains="1" if single else "5")
    (made,) = folder.records()
    assert made.length == len(made.tasks)
    filmer = Filmer(
        replace(SMALL, per="subtask"), folder, simulator_of(folder, None, "tiny"), tmp_path / "o"
    )
    shown = (0,) if single else (1, 4)
    files = filmer.film(made, shown)
    filmer.close()
    assert [path.name for path in files] == [f"chain{made.chain:04d}_sub{i}.mp4" for i in shown]
    assert imageio_ffmpeg.count_frames_and_secs(files[0])[0] == 2 + HOLD


@pytest.mark.parametrize("tamper", ["change", "cut"])
def test_actions_that_lead_elsewhere_are_no_film_of_the_run(tmp_path: Path, tamper: str) -> None:
    folder = run_folder(tmp_path / "run", chains="0")
    actions = list(folder.read_actions(0)[0])
    if tamper == "change":
        actions[2] = actions[2] + np.array([1e-9, 0, 0, 0, 0, 0, 0])
    else:
        actions.pop()
    folder.write_actions(0, [actions])
    with pytest.raises(ReplayError, match="chain 0, subtask 0"):
        film(folder, SMALL, folder.path / "videos")
    assert list((folder.path / "videos").iterdir()) == []


class Pools:
    """Makes pools, and hears what they say."""

    def __init__(self, run: RunFolder, out: Path) -> None:
        self.run, self.out = run, out
        self.notes: list[str] = []
        self.made: list[VideoPool] = []

    def __call__(self, spec: VideoSpec = SMALL, **options: Any) -> VideoPool:
        simulator = simulator_of(self.run, None, "tiny")
        # The run drew nothing; here it is tiny, whatever the machine can do.
        simulator = replace(simulator, render=resolve_backend("tiny"))
        options = {"out": self.out, **options}
        self.made.append(VideoPool(spec, self.run, simulator, self.notes.append, **options))
        return self.made[-1]


@pytest.fixture
def pools(run: RunFolder, tmp_path: Path) -> Iterator[Pools]:
    made = Pools(run, tmp_path / "out")
    yield made
    for pool in made.made:
        pool.close(wait=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_run_is_filmed_beside_and_stays_as_it_is(run: RunFolder, pools: Pools) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    pool = pools(replace(SMALL, which=2))
    shown: list[tuple[int, int]] = []
    for made in run.records():
        pool.submit(made)
    assert pool.left > 0
    pool.close(show=lambda drawn, asked: shown.append((drawn, asked)))
    assert pool.left == 0
    assert names(pools.out) == ["chain0000.mp4", "chain0001.mp4"]
    assert sorted(pool.files) == [pools.out / name for name in names(pools.out)]
    assert pool.lost == []
    assert pools.notes == []
    assert shown[-1] == (2 * (STEPS + 1), 2 * (STEPS + 1))
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_letters_that_no_font_has_are_noted_once(
    run: RunFolder, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calvin_eval.rollouts.video.pool.find_font", lambda text: None)
    pool = pools(replace(SMALL, which="successes"))
    told = replace(subtask(False), instruction="\u6253\u5f00")
    for chain in range(2):
        pool._check_captions(replace(record("0", chain=chain), subtasks=(told,)))
    pool.close()
    (note,) = pools.notes
    assert "fonts-noto-cjk" in note
    assert "CALVIN_EVAL_FONT" in note


@pytest.mark.slow
def test_a_later_session_makes_what_is_missing_and_replaces_what_is_outdated(
    run: RunFolder, pools: Pools
) -> None:
    pools.out.mkdir()
    (pools.out / "chain0001.mp4").write_bytes(b"made before")
    (pools.out / "chain0002_sub0.mp4").write_bytes(b"of a record that was replaced")
    pool = pools()
    pool.catch_up(run.records()[:2])
    pool.submit(run.records()[2])
    pool.close()
    assert names(pools.out) == ["chain0000.mp4", "chain0001.mp4", "chain0002.mp4"]
    assert (pools.out / "chain0001.mp4").read_bytes() == b"made before"


def children() -> list[int]:
    """This process's video processes."""
    return children_of(os.getpid(), "calvin_eval.rollouts.video.worker")


ENCODER = """#!/bin/sh
# ffmpeg, but a film does not end before the file {go} exists, or whoever makes it is gone.
case " $* " in *" -i - "*) ;; *) exec "{ffmpeg}" "$@" ;; esac
{{ cat; while [ ! -e "{go}" ] && [ -d "/proc/$PPID" ]; do sleep 0.02; done; }} | "{ffmpeg}" "$@"
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No film ends before this file exists: what happens meanwhile happens in the middle of one."""
    go, encoder = tmp_path / "go", tmp_path / "encoder"
    encoder.write_text(ENCODER.format(ffmpeg=imageio_ffmpeg.get_ffmpeg_exe(), go=go))
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    return go


def wait_for_a_film(out: Path) -> None:
    wait_until(lambda: out.is_dir() and names(out), "a film has begun")


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_its_video_made(
    run: RunFolder, pools: Pools, go: Path
) -> None:
    pool = pools()
    pool.submit(run.records()[0])
    wait_for_a_film(pools.out)
    (child,) = children()
    assert os.getpriority(os.PRIO_PROCESS, child) > os.getpriority(os.PRIO_PROCESS, 0)
    os.kill(child, signal.SIGKILL)
    go.touch()
    pool.submit(run.records()[1])
    pool.close()
    assert names(pools.out) == ["chain0000.mp4", "chain0001.mp4"]
    assert pool.lost == []
    assert not children()


@pytest.mark.slow
def test_giving_up_leaves_nothing_half_made(run: RunFolder, pools: Pools, go: Path) -> None:
    pool = pools()
    for made in run.records():
        pool.submit(made)
    wait_for_a_film(pools.out)
    assert children()
    pool.close(wait=False)
    assert not names(pools.out)
    assert not children()
    assert sorted(pool.lost) == [0, 1, 2]
    assert len(pools.notes) == 1
    assert "--chains 0,1,2" in pools.notes[0]


@pytest.mark.slow
def test_ctrl_c_ends_the_waiting_and_leaves_nothing_half_made(
    run: RunFolder, pools: Pools, go: Path
) -> None:
    pool = pools()
    waiting = threading.Event()

    def interrupt() -> None:
        waiting.wait()
        wait_for_a_film(pools.out)
        os.kill(os.getpid(), signal.SIGINT)

    for made in run.records():
        pool.submit(made)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pool.close(show=lambda drawn, asked: waiting.set())
    assert not children()
    assert names(pools.out) == []
    assert sorted(pool.lost) == [0, 1, 2]


@pytest.mark.slow
def test_a_full_disk_costs_the_video_and_is_told(run: RunFolder, pools: Pools) -> None:
    pool = pools(VideoSpec(height=120))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # inherited by the process
    try:
        pool.submit(run.records()[0])
        wait_until(children, "the process that inherits the limit is there")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    pool.close()
    assert pool.lost == [0]
    assert names(pools.out) == []
    assert "no video of chain 0: the encoder could not write chain0000.mp4" in pools.notes[0]


@pytest.mark.slow
def test_without_an_encoder_videos_are_lost_and_soon_no_more_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    folder = run_folder(tmp_path / "run", chains="0-7")
    pools = Pools(folder, tmp_path / "out")
    pool = pools()
    for made in folder.records():
        pool.submit(made)
    pool.close()
    assert sorted(pool.lost) == list(range(8))
    assert sum(note.startswith("no video of chain") for note in pools.notes) == 5
    assert any("no more videos are tried" in note for note in pools.notes)


def test_a_camera_that_does_not_exist_is_told_before_anything_is_run(pools: Pools) -> None:
    with pytest.raises(UnknownNameError, match="gripper"):
        pools(VideoSpec(cameras=("griper",)))


def command(*arguments: object) -> Any:
    return runner().invoke(video, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_films_any_size_and_camera_and_prints_the_files(
    run: RunFolder, tmp_path: Path
) -> None:
    result = command(
        *(run.path, "--chains", "0,2", "--failures", "--per", "subtask", "--format", "webp"),
        *("--size", 40, "--camera", "gripper", "--camera", "1.5,-1.5,1.5:0,0,0.5"),
        *("--render", "tiny", "--out", tmp_path),
    )
    assert result.exit_code == 0, result.output
    expected = ["chain0000_sub0.webp", "chain0002_sub0.webp"]
    assert [Path(line).name for line in result.stdout.split()] == expected
    assert names(tmp_path) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a choice of chains"),
        (("--all", "--first", "1"), "expected one choice"),
        (("--chains", "0,9"), "chain 9"),
        (("--all", "--camera", "1,2:3"), "expected a camera such as"),
        (("--all", "--size", "7"), "video height"),
    ],
)
def test_the_command_explains_what_it_does_not_understand(
    run: RunFolder, arguments: tuple[str, ...], message: str
) -> None:
    result = command(run.path, *arguments)
    assert isinstance(result.exception, UsageError)
    assert re.search(message, str(result.exception))


def test_the_assets_must_be_those_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    document = {**run.document(), "assets": {"name": "official", "fingerprint": "ab" * 32}}
    folder = RunFolder.create(tmp_path / "run", document)
    result = command(folder.path, "--all")
    assert "expected the official asset pack abababababab" in str(result.exception)
    assert "--assets" in str(result.exception)
    assert json.loads((folder.path / "header.json").read_text())["status"] == "started"
