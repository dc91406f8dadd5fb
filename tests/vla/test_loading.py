"""RoboVLMs behind `--ckpt`: what is recognised, what is declared, and whole runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robovlms_reference import Reference, make_run
from safetensors.torch import save_file
from zero_folders import save_zero

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.loading import OPTIONS
from calvin_eval.wrappers.loaders import declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.torch_file import idle_gpu
from calvin_eval.wrappers.policy import Request

pytestmark = pytest.mark.processes

CHECKPOINT = "epoch=4-step=7.ckpt"
LIGHT = {"use_hand_rgb": False, "act_head": {"type": "FCDecoder"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), "kosmos", **LIGHT)


def stages(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    found = declared(Source(ckpt=str(folder), options=options))
    assert found is not None
    assert found[0] == {}
    return {label: dict(settings) for label, settings in found[1].items()}


def act(ckpt: Path, **options: Any) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    obs = {"rgb_obs": {"rgb_static": image}, "robot_obs": np.zeros(15)}
    asked = Request(session=0, instruction="push it", position=0, step=0, obs=obs)
    return np.asarray(resolve(str(ckpt), options=options).policy.act([asked])[0])


def test_stages_are_declared_in_the_originals_order(tmp_path: Path) -> None:
    config = {
        "robovlm_name": "RoboKosMos", "vlm": {}, "act_head": {}, "window_size": 8,
        "fwd_pred_next_n": 10, "tcp_rel": True, "use_mu_law": True, "norm_action": True,
        "norm_min": -0.65, "norm_max": 0.65,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = stages(tmp_path, raw_calvin=False)
    assert list(found) == [
        "tcp_to_world", "ensemble", "split", "mu_law", "unnormalize", "state_relative",
        "scale", "gripper",
    ]  # fmt: skip
    assert found["ensemble"] == {"method": "first"}
    assert found["mu_law"] == {"mu": 255.0}
    assert found["unnormalize"] == {"low": -0.65, "high": 0.65, "gripper": "scaled"}
    fixed = stages(tmp_path, raw_calvin=False, compat="fixed", gripper_convention="1_closed")
    assert fixed["ensemble"] == {"method": "exponential", "decay": 1.0}
    assert fixed["execute"] == {"steps": 1}
    assert fixed["split"]["high"] == "close"
    assert fixed["unnormalize"]["gripper"] == "bypass"
    assert fixed["state_relative"] == {"euler_wrap": True}
    config["act_head"] = {"action_space": "discrete"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = stages(tmp_path, raw_calvin=False)
    assert list(found) == ["tcp_to_world", "ensemble", "mu_law", "unnormalize", "gripper"]
    assert found["gripper"] == {"input": "signed"}


def test_a_missing_bound_is_named(tmp_path: Path) -> None:
    config = {
        "robovlm_name": "x", "vlm": {}, "act_head": {}, "window_size": 8, "fwd_pred_next_n": 10,
        "norm_action": True, "norm_min": -1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected norm_max to be a number, found None"):
        stages(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"windw": 3}, UnknownNameError, "unknown option of .* 'windw'"),
        ({"pre_selct": "x"}, UnknownNameError, "Did you mean 'pre_select'"),
        ({"raw_calvin": "yes"}, UsageError, "raw_calvin: expected true or false"),
        ({"merge": 1}, UsageError, "merge: expected true or false"),
        ({"max_batch": 0}, UsageError, "max_batch: expected a number from 1 up"),
        ({"step": 8}, CheckpointError, "no checkpoint of step 8: it has 7"),
        ({"vlm": "nowhere"}, CheckpointError, r"tokenizer's files, at nowhere"),
        ({"device": "cuda:99"}, UsageError, "cannot be used here"),
    ],
)
def test_options_are_checked(
    run: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(str(run), options=options)


def test_files_with_a_configuration_are_policies(run: Path, tmp_path: Path) -> None:
    """The same weights as a folder, a file, a safetensors file, a ZeRO folder."""
    expected = act(run)
    np.testing.assert_array_equal(act(run / CHECKPOINT), expected)
    state = torch.load(run / CHECKPOINT, weights_only=True)["state_dict"]
    (config,) = run.glob("*-project.json")
    options = {"config": str(config), "vlm": str(run / ".vlms" / "kosmos")}
    plain = tmp_path / "weights.pt"
    torch.save(state, plain)
    save_file(state, tmp_path / "weights.safetensors")
    zero = save_zero(tmp_path / "epoch=0-step=3.ckpt", [state], stage=3, ranks=2)
    for path in (plain, tmp_path / "weights.safetensors", zero):
        np.testing.assert_array_equal(act(path, **options), expected)
    found = declared(Source(ckpt=str(plain), options=options))
    assert found is not None
    assert "unnormalize" in found[1]
    shutil.copy(config, tmp_path / config.name)
    np.testing.assert_array_equal(act(plain, vlm=options["vlm"]), expected)
    np.testing.assert_array_equal(act(tmp_path, vlm=options["vlm"]), expected)  # the .ckpt


def test_weights_without_a_configuration_still_lack_an_architecture(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="weights without an architecture"):
        resolve(str(tmp_path / "x.pt"))
    assert declared(Source(ckpt=str(tmp_path / "x.pt"), options={})) == ({}, {})


def test_a_pickled_model_beside_a_configuration_still_needs_trust(
    run: Path, tmp_path: Path
) -> None:
    (config,) = run.glob("*-project.json")
    shutil.copy(config, tmp_path / config.name)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="pass --trust"):
        resolve(str(tmp_path / "model.pt"))


def test_a_checkpoint_of_another_head_is_refused(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", "kosmos", use_hand_rgb=False)
    with pytest.raises(
        CheckpointError, match=r"lacks 16 weights of the action head .*act_head\.rnn"
    ):
        resolve(str(run / CHECKPOINT), options={"config": str(_config(other))})
    loaded = resolve(
        str(run / CHECKPOINT), options={"config": str(_config(other)), "load_strict": "report"}
    )
    report = loaded.metadata["load_report"]
    assert report["missing"]["count"] == 16
    assert "act_head.mlp.0.weight" in report["unexpected"]["names"]


def test_an_older_transformers_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calvin_eval.vla.loading.version", lambda _: "4.57.6")
    with pytest.raises(CheckpointError, match=r"transformers 5 or newer, found 4\.57\.6"):
        resolve(str(run))


def _config(folder: Path) -> Path:
    (path,) = folder.glob("*-project.json")
    return path


def test_a_gpu_beside_a_policy_on_the_cpu_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "idle" not in resolve(str(run)).description
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "a fast GPU")
    described = resolve(str(run)).description
    assert described.endswith("on cpu (a fast GPU is idle: policy.options.device=cuda:0 uses it)")
    assert idle_gpu("cuda:0") == ""
    assert idle_gpu("cpu", "accelerator=gpu") == " (a fast GPU is idle: accelerator=gpu uses it)"


def test_declaring_loads_nothing_heavy(run: Path) -> None:
    script = (
        "import sys\n"
        "from calvin_eval.wrappers.loaders import declared, is_light, kind_of\n"
        "from calvin_eval.wrappers.loaders.base import Source\n"
        f"found = declared(Source(ckpt={str(run)!r}, options={{}}))\n"
        f"assert kind_of({str(run)!r}) == 'robovlms' and not is_light({str(run)!r})\n"
        "assert 'unnormalize' in found[1]\n"
        "print(*{'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == ""


WATCH = """
import multiprocessing, os, sys
from pathlib import Path
sys.argv = ["calvin-eval", *sys.argv[2:]]
from calvin_eval.cli.main import main
try:
    main()
finally:
    print("heavy:", *sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def test_a_run_from_the_command_line(run: Path, tmp_path: Path) -> None:
    """The parent stays light, and the run keeps what decides its result."""
    arguments = (
        "--ckpt", str(run), "--split", "D", "--num-chains", "1", "--workers", "1",
        "--render", "tiny", "--out", "out", "protocol.steps=3",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WATCH, "", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"heavy:\s*$", done.stderr, re.M)
    assert "RoboVLMs policy epoch=4-step=7.ckpt" in done.stdout + done.stderr
    header = json.loads((tmp_path / "out" / "header.json").read_text(encoding="utf-8"))
    policy = header["policy"]
    assert policy["kind"] == "robovlms"
    assert policy["load_report"]["missing"] == {"count": 0, "names": []}
    assert list(policy["stages"]["actions"]) == ["ensemble", "split", "unnormalize", "gripper"]
    assert policy["requirements"]["rgb"] == ["static"]
    actions = [path for path in (tmp_path / "out" / "actions").rglob("*") if path.is_file()]
    assert actions


def test_the_configuration_is_printed_with_its_wrappers(run: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calvin_eval", "--ckpt", str(run), "--print-config",
         "policy.options.pre_select=latest"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match(r"#\s+\d+\. ", line)]
    assert [re.sub(r"#\s+\d+\. ([\w.]+).*", r"\1", line) for line in lines] == [
        "network", "actions.ensemble", "actions.split", "actions.unnormalize",
        "actions.gripper", "execution",
    ]  # fmt: skip


def test_two_cameras_in_a_run_equal_the_reference(tmp_path: Path) -> None:
    """The actions that a run wrote down are those of the original's steps on its images."""
    from calvin_eval.sim import make_env

    folder = make_run(tmp_path / "run", "kosmos")
    loaded = resolve(str(folder))
    assert loaded.policy.requirements.rgb == ("static", "gripper")
    reference = Reference(folder, "kosmos")
    env = make_env("D", render="tiny")
    obs = env.reset()
    loaded.policy.reset(0, "open the drawer")
    for step in range(3):
        asked = Request(session=0, instruction="open the drawer", position=0, step=step, obs=obs)
        (chunk,) = loaded.policy.act([asked])
        action = np.asarray(chunk)[0]
        expected = reference.step(obs, "open the drawer")
        np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)
        obs, _, _, _ = env.step(action)
    env.close()


PAGE = Path(__file__).parents[2] / "docs" / "robovlms.md"


def test_the_page_lists_every_option_with_its_defaults() -> None:
    text = PAGE.read_text(encoding="utf-8").split("\n## From the network")[0]
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line[:3] == "| `"]
    assert {row[0].strip("`") for row in rows} == set(OPTIONS)
    fixed = Compat.fixed()
    for name, *cells in rows:
        if name.strip("`") in Compat.__dataclass_fields__:
            for value, compat in zip(cells, (Compat(), fixed), strict=False):
                expected = getattr(compat, name.strip("`"))
                assert value.strip("`") == str(expected).replace("T", "t").replace("F", "f"), name


def test_the_pages_commands_name_what_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"policy\.options\.(\w+)=", text)) - {"NAME"}
    assert named <= set(OPTIONS)
    assert {"config", "vlm", "step", "merge", "base"} <= named
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = [code for code in codes if "open_project" not in code]  # test_opening runs that one
    exec(compile(code, str(PAGE), "exec"), {})
