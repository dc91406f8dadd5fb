"""Presets and files in their place, what wins over them, and what a run says about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from scipy.spatial.transform import Rotation

from calvin_eval import evaluate
from calvin_eval.cli.main import cli, main
from calvin_eval.config.compose import compose_config
from calvin_eval.config.presets import check_kind, preset_names
from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import arrange
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import Request, Requirements
from calvin_eval.wrappers.stages.base import Context

ROOT = Path(__file__).parents[2]
CONF = ROOT / "eval" / "conf" / "policy"
ROBOT = np.array([0.1, -0.2, 0.5, 3.1, -0.1, 1.5, *[0.0] * 8, -1.0])


def composed(*overrides: str, ckpt: str = "builtin:still") -> EvalConfig:
    return compose_config([f"ckpt={ckpt}", *overrides])


class Network:
    """Returns chunks of the given width."""

    requirements = Requirements(rgb=("static", "gripper"))

    def __init__(self, width: int) -> None:
        self.output = np.random.default_rng(0).uniform(0, 1, (30, width)).astype(np.float32)
        self.seen: dict[str, Any] = {}

    def reset(self, session: int, instruction: str) -> None:
        pass

    def act(self, requests: Any) -> list[Any]:
        (request,) = requests
        self.seen = {**request.obs, "instruction": request.instruction}
        return [self.output]


def run_through(
    config: EvalConfig,
    width: int,
    images: dict[str, Any] | None = None,
    instruction: str = "push the block",
) -> tuple[dict[str, Any], Any]:
    """What a network sees behind a preset's stages, and the last chunk that comes out."""
    stages = arrange(({}, {}), config.policy.observe, config.policy.actions)
    network = Network(width)
    pipeline = Pipeline(network, observe=stages.observe, actions=stages.actions)
    pipeline.reset(0, instruction)
    obs = {
        "rgb_obs": images
        or {
            "rgb_static": np.full((200, 200, 3), 100, np.uint8),
            "rgb_gripper": np.full((84, 84, 3), 100, np.uint8),
        },
        "depth_obs": {},
        "robot_obs": ROBOT,
        "scene_obs": np.zeros(24),
    }
    for step in range(3):
        request = Request(session=0, instruction=instruction, position=0, step=step, obs=obs)
        (chunk,) = pipeline.act([request])
    return network.seen, chunk


def test_there_is_a_preset_for_every_published_variant() -> None:
    assert {
        "calvin", "roboflamingo", "robovlms", "robovlms_fixed", "gr1", "gr_mg", "diffuser_actor",
        "mdt", "mode", "flower", "vpp", "clover", "deer", "seer", "dreamvla", "up_vla", "univla",
        "univla_baai", "vla_adapter", "xvla", "rlinf", "xiaomi", "starvla", "vla_eval", "openpi",
        "lerobot",
    } <= set(preset_names())  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_states_its_source_and_turns_a_network_into_actions(name: str) -> None:
    config = composed(f"policy={name}")
    assert config.policy.preset == name
    assert "/" in (config.policy.source or "")
    width = {"diffuser_actor": 8, "xvla": 20}.get(name, 7)
    _, chunk = run_through(config, width)
    executed = chunk[: config.protocol.execute]
    assert len(executed) >= 1
    if config.policy.actions:
        grippers = {float(np.ravel(a[-1])[0]) for a in executed}
        assert grippers <= {-1.0, 1.0}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_preset_files_are_short_and_explained(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    if path.stem != "default":
        assert lines[0] == "# @package _global_"
        assert lines[1].startswith("# ")


def test_x_vla_keeps_its_plan_across_subtasks() -> None:
    protocol = composed("policy=xvla").protocol
    assert (protocol.policy_reset, protocol.leftover, protocol.execute) == ("chain", "keep", 20)


@pytest.mark.slow
def test_what_networks_behind_presets_see() -> None:
    seen, _ = run_through(composed("policy=gr1"), 7)
    assert seen["rgb_obs"]["rgb_static"].shape == (3, 3, 224, 224)
    assert seen["state"].shape == (3, 7)
    assert set(seen["state"][:, 6]) == {0.0}
    seen, _ = run_through(composed("policy=diffuser_actor"), 8)
    assert seen["rgb_obs"]["rgb_gripper"].shape == (3, 160, 160)
    assert seen["state"].shape == (3, 8)
    assert seen["instruction"] == "push the block."
    seen, _ = run_through(composed("policy=openpi"), 7)
    assert seen["rgb_obs"]["rgb_gripper"].shape == (224, 224, 3)
    assert seen["state"].shape == (8,)


def test_xiaomi_cuts_whole_pixels_and_enlarges_what_is_left() -> None:
    images = {
        name: np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        for name, side in (("rgb_static", 200), ("rgb_gripper", 84))
    }
    seen, _ = run_through(composed("policy=xiaomi"), 7, images, "push the LED")
    for name, image in images.items():
        side = len(image)
        kept = int(side * 0.95)  # 190 of 200, 79 of 84
        first = (side - kept) // 2
        box = (first, first, first + kept, first + kept)
        wanted = Image.fromarray(image).crop(box).resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(seen["rgb_obs"][name], np.asarray(wanted))
    assert seen["instruction"] == "Push the led."
    assert seen["state"].shape == (7,)


def test_rlinf_sees_images_as_they_are_drawn() -> None:
    seen, _ = run_through(composed("policy=rlinf"), 7)
    assert seen["rgb_obs"]["rgb_static"].shape == (200, 200, 3)
    assert seen["rgb_obs"]["rgb_gripper"].shape == (84, 84, 3)


@pytest.mark.parametrize(
    ("name", "lines"),
    [("seer", "first"), ("dreamvla", "first"), ("clover", "first"), ("univla_baai", "all")],
)
def test_whose_script_takes_a_sentences_first_line(name: str, lines: str) -> None:
    assert composed(f"policy={name}").protocol.instruction_lines == lines


@pytest.mark.parametrize(("name", "command"), [("univla", 1), ("univla_baai", -1), ("mode", -1)])
def test_what_a_gripper_at_zero_does(name: str, command: int) -> None:
    actions = arrange(({}, {}), {}, composed(f"policy={name}").policy.actions).actions
    (stage,) = actions.values()
    request = Request(session=0, instruction="", position=0, step=0, obs={})
    assert np.asarray(stage(np.zeros((1, 7)), Context(request)))[0, 6] == command


# what comes out, by the formulas of the scripts that the presets cite


def test_3d_diffuser_actor_adds_positions_and_intrinsic_angles_to_the_measured_pose() -> None:
    config = composed("policy=diffuser_actor")
    _, chunk = run_through(config, 8)
    output = Network(8).output.astype(float)
    angles = Rotation.from_quat(output[:, [4, 5, 6, 3]]).as_euler("XYZ")
    for (position, euler, gripper), row, turn in zip(chunk, output, angles, strict=True):
        np.testing.assert_allclose(position, ROBOT[:3] + row[:3], atol=1e-6)
        turns = (euler - ROBOT[3:6] - turn) / (2 * np.pi)  # the same angles, wrapped
        np.testing.assert_allclose(turns, np.rint(turns), atol=1e-5)
        assert gripper == (1 if row[7] >= 0.5 else -1)
    assert (config.protocol.steps, config.protocol.execute) == (60, 19)


def test_x_vla_makes_a_quaternion_of_interleaved_columns() -> None:
    _, chunk = run_through(composed("policy=xvla"), 20)
    for (position, quaternion, gripper), row in zip(chunk, Network(20).output, strict=True):
        np.testing.assert_allclose(position, row[:3], atol=1e-6)
        first = row[3:9:2] / np.linalg.norm(row[3:9:2])
        second = row[4:9:2] - first * (first @ row[4:9:2])
        second /= np.linalg.norm(second)
        matrix = np.stack([first, second, np.cross(first, second)], axis=1)
        found = Rotation.from_quat(quaternion).as_matrix()
        np.testing.assert_allclose(found, matrix, atol=1e-5)
        assert gripper == (1 if row[9] < 0.8 else -1)


def test_gr_mg_turns_a_motion_of_the_tcp_into_the_world() -> None:
    _, chunk = run_through(composed("policy=gr_mg"), 7)
    pose = Rotation.from_euler("xyz", ROBOT[3:6])
    for action, row in zip(chunk, Network(7).output.astype(float), strict=True):
        turned = (pose * Rotation.from_euler("xyz", row[3:6] / 20)).as_euler("xyz")
        np.testing.assert_allclose(action[:3], pose.apply(row[:3]), atol=1e-5)
        np.testing.assert_allclose(action[3:6], 20 * (turned - ROBOT[3:6]), atol=1e-4)
        assert action[6] == 1


def test_robovlms_and_its_fixes_are_options_of_the_loader() -> None:
    from calvin_eval.vla.compat import Compat

    assert composed("policy=robovlms").policy.options["compat"] == "original"
    fixed = composed("policy=robovlms_fixed", "policy.options.pre_select=oldest").policy
    assert (fixed.options["compat"], fixed.kind) == ("fixed", "robovlms")
    names = Compat.__dataclass_fields__
    given = {key: value for key, value in fixed.options.items() if key in names}
    assert Compat.from_options(given, Compat.fixed()).pre_select == "oldest"


# what wins


@pytest.mark.slow
def test_overrides_and_flags_beat_a_preset() -> None:
    config = composed("policy=xvla", "protocol.steps=100", "policy.actions.gripper.threshold=0.4")
    assert config.protocol.steps == 100
    assert config.policy.actions["gripper"]["threshold"] == 0.4
    assert config.policy.actions["gripper"]["high"] == "close"
    flagged = compose_config(["ckpt=x", "policy=diffuser_actor"], {"sim.revision": "pinned"})
    assert flagged.protocol.revision == "pinned"
    both = composed("policy=xvla", "protocol=quick")
    assert (both.protocol.steps, both.protocol.num_chains) == (720, 20)


def test_a_stage_can_be_added_and_all_can_be_taken_away() -> None:
    config = composed("policy=xvla", "policy.actions.late.use=clip", "policy.actions.columns=null")
    assert list(config.policy.actions)[-1] == "late"
    assert config.policy.actions["columns"] is None
    stages = arrange(({}, {}), {}, config.policy.actions)
    assert list(stages.actions) == ["gripper", "orientation", "absolute", "late"]
    bare = composed("policy=xvla", "policy.actions=null")
    assert dict(bare.policy.actions) == {}
    assert bare.protocol.steps == 720


@pytest.mark.slow
def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("policy:\n  actions:\n    scale: {}\nprotocol:\n  steps: 90\n")
    config = composed(f"policy={mine}")
    assert config.policy.preset == str(mine)
    assert dict(config.policy.actions) == {"scale": {}}
    assert config.protocol.steps == 90
    assert composed(f"policy={mine}", "protocol.steps=5").protocol.steps == 5
    mine.write_text("defaults: [xvla]\npolicy:\n  source: my paper\nprotocol:\n  execute: 10\n")
    config = composed(f"policy={mine}")
    assert (config.protocol.steps, config.protocol.execute) == (720, 10)
    assert (config.policy.source, next(iter(config.policy.actions))) == ("my paper", "columns")


# mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy=roboflamnigo", "Did you mean 'roboflamingo'"),
        ("policy=nowhere.yaml", "nowhere.yaml cannot be read"),
        ("policy.observe.history=3", "policy.observe.history.NAME=VALUE"),
        ("policy.prest=xvla", "policy.preset"),
    ],
)
def test_a_wrong_preset_is_explained(override: str, message: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=message):
        composed(override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "sections such as policy"),
        ("policy: xvla\n", "sections such as policy"),
        ("a: [\n", "cannot be read"),
        ("actions:\n  scale: {}\n", "unknown configuration key 'actions'"),
        ("policy:\n  action: {}\n", "policy.actions"),
        ("defaults: [xvl]\n", "xvl"),
    ],
)
def test_a_wrong_preset_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        composed(f"policy={tmp_path / 'mine.yaml'}")


@pytest.mark.slow
def test_a_preset_for_other_checkpoints_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(CheckpointError, match=r"'robovlms'.*'class'"):
        check_kind(composed("policy=robovlms", ckpt="mine:Class"))
    with pytest.raises(CheckpointError, match="calvin-eval presets"):
        check_kind(composed("policy=openpi"))
    check_kind(composed("policy=openpi", ckpt="ws://localhost:8000"))
    check_kind(composed("policy=openpi", "policy.kind=null"))
    check_kind(composed("policy=xvla", ckpt="mine:Class"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.actions.griper.input=signed", "Did you mean 'gripper'"),
        ("policy.actions.gripper.treshold=0.5", "Did you mean 'threshold'"),
        ("policy.observe.histroy.length=2", "Did you mean 'history'"),
        ("policy.observe.history.length=zero", "from 1 up"),
    ],
)
def test_wrong_stages_are_named(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ckpt", "builtin:still", override, "--print-config"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


# what the documentation says


def test_the_documented_preset_file_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "presets.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    config = composed(f"policy={tmp_path / 'mine.yaml'}")
    assert config.protocol.execute == 4
    assert config.policy.actions["gripper"] == {"input": "probability", "threshold": 0.3}


def test_the_documented_options_of_robovlms_are_the_loaders() -> None:
    from calvin_eval.vla.compat import Compat

    text = (ROOT / "docs" / "presets.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \|$", text, re.MULTILINE)

    def words(compat: Compat) -> list[str]:
        values = [getattr(compat, name) for name in Compat.__dataclass_fields__]
        return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]

    documented = [list(column) for column in zip(*rows, strict=True)]
    assert documented == [list(Compat.__dataclass_fields__), words(Compat()), words(Compat.fixed())]


# what is printed


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--print-config"], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def numbered(text: str) -> list[str]:
    """Names of the wrappers that --print-config lists."""
    lines = [line.removeprefix("# ").strip() for line in text.splitlines() if line[:3] == "#  "]
    assert [line.partition(".")[0] for line in lines] == [str(i + 1) for i in range(len(lines))]
    return [line.partition(". ")[2].partition(":")[0] for line in lines]


def test_wrappers_are_printed_in_execution_order_behind_the_configuration() -> None:
    text = printed("--policy", "gr1", "--ckpt", "mine:Class", "policy.actions.clip.high=0.5")
    assert yaml.safe_load(text)["policy"]["preset"] == "gr1"
    assert numbered(text) == [
        "observe.images", "observe.proprioception", "observe.history", "network",
        "actions.gripper", "actions.clip", "execution",
    ]  # fmt: skip
    assert "high: 0.5" in text


def test_wrappers_that_a_checkpoint_declares_are_printed(tmp_path: Path) -> None:
    text = printed("--ckpt", "ws://localhost:1", "policy.options.protocol=openpi")
    assert numbered(text)[:2] == ["observe.images", "observe.proprioception"]
    text = printed("--ckpt", str(tmp_path / "missing"), "policy.observe.history.length=2")
    assert "not known yet" in text
    assert numbered(text) == ["observe.history", "network", "execution"]


def test_several_configurations_are_several_documents() -> None:
    text = printed("--ckpt", "one:A", "--ckpt", "two:B", "--policy", "xvla")
    assert [document["ckpt"] for document in yaml.safe_load_all(text)] == ["one:A", "two:B"]
    assert text.count("wrappers, in execution order") == 2


@pytest.mark.slow
def test_the_presets_are_listed() -> None:
    result = CliRunner().invoke(cli, ["presets"], catch_exceptions=False)
    assert all(name in result.stdout for name in preset_names())


@pytest.mark.slow
def test_what_presets_state_can_be_read_by_programs() -> None:
    result = CliRunner().invoke(cli, ["presets", "--json"], catch_exceptions=False)
    listed = {preset["name"]: preset for preset in json.loads(result.stdout)}
    assert list(listed) == preset_names()
    assert all(preset["source"] for preset in listed.values())
    assert listed["xvla"]["steps"] == "720 env_steps"
    assert (listed["xiaomi"]["steps"], listed["xiaomi"]["execute"]) == ("36 decisions", 10)
    commands = {name: preset["commands"] for name, preset in listed.items()}
    assert (commands["xvla"], commands["openpi"]) == ("absolute", "declared")
    assert commands["calvin"] == "relative"


# what a run says

RUN = ("--ckpt", "builtin:random", "--num-chains", "1", "--workers", "0")


def test_a_run_says_where_its_preset_departs_from_the_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["policy.actions=null", "protocol.steps=3"]
    out = tmp_path / "run"
    assert main([*RUN, "--policy", "xvla", *overrides, "--out", str(out)]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("preset xvla: ")]
    for part in ("official protocol", "Budget per subtask", "3 env_steps", "keep", "chain"):
        assert part in line
    assert "Planned chains" not in line
    assert "Leftover actions" in said.out
    header = json.loads((out / "header.json").read_text())
    assert header["config"]["policy"]["preset"] == "xvla"
    assert header["config"]["policy"]["source"].startswith("2toinf/X-VLA")
    reasons = " ".join(json.loads((out / "summary.json").read_text())["verdict"]["reasons"])
    assert "expected drop, found keep" in reasons
    assert "preset xvla" in (out / "report.html").read_text()


@pytest.mark.slow
def test_rewritten_instructions_are_a_departure_and_stages_are_kept(tmp_path: Path) -> None:
    class Still:
        requirements = Requirements()

        def reset(self, session: int, instruction: str) -> None:
            assert instruction.endswith(".")

        def act(self, requests: Any) -> list[Any]:
            assert all(request.instruction.endswith(".") for request in requests)
            assert all(request.obs["state"].shape == (2, 7) for request in requests)
            return [np.array([[0.0] * 6 + [0.9]]) for _ in requests]

    run = evaluate(
        Still(), num_chains=1, out=str(tmp_path / "run"), workers=1, quiet=True,
        overrides=[
            "protocol.steps=2", "policy.observe.loud.use=instruction",
            "policy.observe.loud.suffix=.", "policy.observe.proprioception.fields=seven",
            "policy.observe.history.length=2", "policy.observe.history.pad=zeros",
            "policy.actions.gripper.input=signed",
        ],
    )  # fmt: skip
    assert run.summary.errors == 0
    assert any("rewritten by observe.loud" in reason for reason in run.verdict.reasons)
    header = json.loads((run.folder / "header.json").read_text())
    stages = header["policy"]["stages"]
    assert list(stages["observe"]) == ["loud", "proprioception", "history"]
    assert stages["observe"]["loud"]["use"] == "instruction"
    assert stages["actions"]["gripper"]["input"] == "signed"


@pytest.mark.slow
def test_an_official_preset_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*RUN, "--policy", "calvin", "--out", str(tmp_path / "run"), "--max-errors", "1"]
    arguments[1] = "builtin:still"
    assert main([*arguments, "protocol.steps=360"]) == 0
    assert "preset calvin: keeps to the official protocol" in capsys.readouterr().err
