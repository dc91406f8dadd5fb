"""LeRobot folders against straight calls of LeRobot; runs where lerobot is installed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from requirements import reason

from calvin_eval.errors import CheckpointError, PolicyError, UsageError
from calvin_eval.results.journal import read_journal
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.testing import check_policy, fake_request

pytest.importorskip("lerobot", reason=reason("LeRobot"))

import tiny_lerobot
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from tiny_lerobot import SIDE, STATE, STATIC, WRIST

PAGE = (Path(__file__).parents[2] / "docs" / "lerobot.md").read_text()
BOTH = Requirements(rgb=("static", "gripper"))


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    return tiny_lerobot.save(tmp_path_factory.mktemp("act") / "pretrained_model", "act")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return tiny_lerobot.save(tmp_path_factory.mktemp("diffusion"), "diffusion")


def ask(session, step=0, position=0, value=None):
    request = fake_request(BOTH, session=session, position=position)
    draw = np.random.default_rng([session, step] if value is None else value)
    images = {
        "rgb_static": draw.integers(256, size=(200, 200, 3), dtype=np.uint8),
        "rgb_gripper": draw.integers(256, size=(84, 84, 3), dtype=np.uint8),
    }
    robot_obs = draw.normal(size=15)
    obs = {**request.obs, "rgb_obs": images, "robot_obs": robot_obs}
    return type(request)(
        session=session, instruction="open the drawer", position=position, step=step, obs=obs
    )


class Reference:
    """LeRobot's own loop: one observation in, one action out."""

    def __init__(self, folder):
        config = PreTrainedConfig.from_pretrained(folder)
        self.policy = get_policy_class(config.type).from_pretrained(folder, config=config)
        self.pre, self.post = make_pre_post_processors(config, str(folder))

    def step(self, request):
        def small(camera):
            image = Image.fromarray(request.obs["rgb_obs"][f"rgb_{camera}"])
            return np.array(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

        state = request.obs["robot_obs"][[0, 1, 2, 3, 4, 5, 6, 14]].astype(np.float32)
        batch = prepare_observation_for_inference(
            {STATIC: small("static"), WRIST: small("gripper"), STATE: state},
            torch.device("cpu"),
            request.instruction,
        )
        action = self.post(self.policy.select_action(self.pre(batch)))[0].numpy()
        return np.array([*action[:6], 1.0 if action[6] > 0 else -1.0], dtype=np.float32)


def test_act_equals_lerobots_own_loop(act):
    policy = resolve(str(act)).policy
    policy.reset(0, "open the drawer")
    reference = Reference(act)
    for step in (0, 4):  # n_action_steps
        (chunk,) = policy.act([ask(0, step)])
        expected = [reference.step(ask(0, step)) for _ in range(4)]
        np.testing.assert_allclose(chunk, expected, rtol=0, atol=1e-6)
    assert len(np.unique(np.round(chunk[:, :6], 6))) > 6  # not a constant


def test_act_serves_sessions_together_and_apart(act):
    policy = resolve(str(act)).policy
    assert policy.requirements.max_sessions is None
    check_policy(policy, sessions=(0, 1, 5))
    requests = [ask(0), ask(1), ask(2)]
    together = policy.act(requests)
    for request, chunk in zip(requests, together, strict=True):
        np.testing.assert_allclose(policy.act([request])[0], chunk, atol=1e-5)
    single = resolve(str(act), options={"max_batch": 1}).policy
    for request, chunk in zip(requests, single.act(requests), strict=True):
        np.testing.assert_array_equal(policy.act([request])[0], chunk)


def test_what_is_declared_is_recorded(act):
    loaded = resolve(str(act.parent))  # a checkpoint's folder, with pretrained_model in it
    assert loaded.kind == "lerobot"
    facts = loaded.metadata
    assert facts["type"] == "act"
    assert facts["cameras"] == {STATIC: "static", WRIST: "gripper"}
    assert facts["mode"] == "predict_action_chunk"
    assert (facts["actions"], facts["draws"]) == (4, False)
    files = {path.name for path in act.iterdir()}
    assert set(facts["files"]) == files
    assert set(facts["versions"]) == {"lerobot", "torch", "transformers"}
    assert facts["stages"]["observe"]["images_gripper"]["size"] == [SIDE, SIDE]
    assert facts["stages"]["observe"]["proprioception"]["fields"] == "eight"
    assert list(facts["stages"]["actions"]) == ["gripper"]
    json.dumps(facts)
    assert loaded.policy.requirements.rgb == ("static", "gripper")
    assert "observation.images.wrist <- rgb_gripper 32x32" in loaded.description


def test_options_swap_cameras_and_choose_the_state(act):
    swapped = resolve(str(act), options={"cameras": {"static": "gripper", "wrist": "static"}})
    assert swapped.metadata["cameras"] == {STATIC: "gripper", WRIST: "static"}
    other = resolve(str(act), options={"state": [0, 1, 2, 3, 4, 5, 14, 6]})
    plain = resolve(str(act)).policy.act([ask(0)])[0]
    for changed in (swapped, other):
        assert not np.allclose(changed.policy.act([ask(0)])[0], plain)


def test_more_actions_of_a_chunk_can_be_executed(act):
    (four,) = resolve(str(act)).policy.act([ask(0)])
    (six,) = resolve(str(act), options={"n_action_steps": 6}).policy.act([ask(0)])
    assert six.shape == (6, 7)
    np.testing.assert_array_equal(six[:4], four)
    with pytest.raises(UsageError, match="expected 1 to 6"):
        resolve(str(act), options={"n_action_steps": 7})


def test_diffusion_keeps_its_history_for_one_session(diffusion):
    loaded = resolve(str(diffusion))
    policy = loaded.policy
    assert policy.requirements.max_sessions == 1
    assert loaded.metadata["mode"] == "select_action"
    check_policy(policy)
    policy.reset(3, "open the drawer")
    reference = Reference(diffusion)
    for step in range(7):  # two chunks of three, and one action
        request = ask(3, step)
        seed = np.random.SeedSequence((0, 3, 0, step)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))
        (chunk,) = policy.act([request])
        np.testing.assert_allclose(chunk, [reference.step(request)], atol=1e-6)
    with pytest.raises(PolicyError, match="session 3"):
        policy.act([ask(4)])


def test_what_is_drawn_depends_on_seed_session_and_step(diffusion):
    def first(seed, session, step):
        policy = resolve(str(diffusion), seed=seed).policy
        policy.reset(session, "open the drawer")
        torch.manual_seed(11)
        before = torch.get_rng_state()
        (chunk,) = policy.act([ask(session, step, value=5)])
        assert torch.equal(before, torch.get_rng_state())
        return chunk

    base = first(0, 0, 0)
    np.testing.assert_array_equal(first(0, 0, 0), base)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 8)):
        assert not np.allclose(first(*other)[:, :6], base[:, :6])


def test_a_temporal_ensemble_is_lerobots_own(tmp_path):
    folder = tiny_lerobot.save(tmp_path, "act", temporal_ensemble_coeff=0.01, n_action_steps=1)
    policy = resolve(str(folder)).policy
    assert policy.requirements.max_sessions == 1
    policy.reset(0, "open the drawer")
    reference = Reference(folder)
    for step in range(4):
        (chunk,) = policy.act([ask(0, step)])
        np.testing.assert_allclose(chunk, [reference.step(ask(0, step))], atol=1e-6)


def test_a_policy_that_draws_is_asked_row_by_row(act, monkeypatch):
    from lerobot.policies.act.modeling_act import ACTPolicy

    predict = ACTPolicy.predict_action_chunk
    sizes = []

    def noisy(self, batch):
        actions = predict(self, batch)
        sizes.append(len(actions))
        return actions + torch.randn(actions.shape)

    monkeypatch.setattr(ACTPolicy, "predict_action_chunk", noisy)
    loaded = resolve(str(act))
    assert loaded.metadata["draws"] is True
    assert "one chain per forward" in loaded.description
    check_policy(loaded.policy, tolerance=0)
    assert set(sizes) == {1}


def test_a_processor_with_a_memory_serves_one_session(act, tmp_path):
    from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry

    @ProcessorStepRegistry.register("calvin_eval_test_memory")
    class Memory(ObservationProcessorStep):
        resets = 0

        def observation(self, observation):
            return observation

        def transform_features(self, features):
            return features

        def reset(self):
            Memory.resets += 1

    folder = shutil.copytree(act, tmp_path / "copy")
    file = folder / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    content["steps"].append({"registry_name": "calvin_eval_test_memory", "config": {}})
    content["steps"] = [s for s in content["steps"] if s["registry_name"] != "device_processor"]
    file.write_text(json.dumps(content))
    policy = resolve(str(folder)).policy
    assert policy.requirements.max_sessions == 1
    before = Memory.resets
    policy.reset(0, "open the drawer")
    assert Memory.resets == before + 1
    first = policy.act([ask(0)])
    np.testing.assert_allclose(first[0], resolve(str(act)).policy.act([ask(0)])[0][:1], atol=1e-6)


def test_other_widths_need_stages_of_the_user(tmp_path):
    folder = tiny_lerobot.save(tmp_path, "act", action=8, state=10)
    with pytest.raises(CheckpointError, match=r"state of 10 .*policy\.options\.state"):
        resolve(str(folder))
    ten = [*range(3), *range(7, 14)]
    with pytest.raises(CheckpointError, match=r"8 numbers.*policy\.options\.action_width=8"):
        resolve(str(folder), options={"state": ten})
    loaded = resolve(str(folder), options={"state": ten, "action_width": 8})
    assert list(loaded.metadata["stages"]["actions"]) == []
    assert loaded.policy.act([ask(0)])[0].shape == (4, 8)
    wrong = resolve(str(folder), options={"state": [0, 1], "action_width": 8}).policy
    with pytest.raises(PolicyError, match="state of 10 numbers"):
        wrong.act([ask(0)])
    with pytest.raises(PolicyError, match="images"):
        resolve(
            str(folder),
            options={"state": ten, "action_width": 8},
            observe={"images_static": {"size": [16, 16]}},
        ).policy.act([ask(0)])


def test_missing_weights_are_an_error(act, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(act, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "action_head" not in k}, folder / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"action_head|state_dict"):
        resolve(str(folder))
    assert resolve(str(folder), options={"strict": False}).kind == "lerobot"


@pytest.mark.slow
def test_the_command_line_runs_the_folder_of_the_docs(tmp_path):
    (name, code), *more = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
    assert not more
    (tmp_path / name).write_text(code)
    subprocess.run([sys.executable, name], cwd=tmp_path, check=True)
    commands = re.findall(r"^calvin-eval (--ckpt tiny_act.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 1
    done = subprocess.run(
        [
            sys.executable, "-m", "calvin_eval", *commands[0].split(), "--render", "tiny",
            "--out", "run", "protocol.steps=3", "policy.observe.images_static.fit=pad",
            "policy.options.cameras.observation.images.wrist=gripper",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "LeRobot policy act" in done.stderr
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    policy = header["policy"]
    assert policy["kind"] == "lerobot"
    assert policy["cameras"] == {STATIC: "static", WRIST: "gripper"}
    assert policy["stages"]["observe"]["images_static"]["fit"] == "pad"
    assert len(policy["files"]["model.safetensors"]["sha256"]) == 64
    records = read_journal(tmp_path / "run" / "chains.jsonl")
    assert [record.status for record in records] == ["completed", "completed"]
