"""The values of RoboVLMs' eleven training configurations, read and built at tiny sizes.

`robovlms_configs.json` holds what most of them say, and what each says otherwise; keys with dots
stand for sections (revision 8adc1d2).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.config.compose import compose_config
from calvin_eval.config.listing import render_configs
from calvin_eval.errors import CheckpointError
from calvin_eval.vla.config import audit_lora, read_config
from calvin_eval.vla.loading import declare
from calvin_eval.wrappers.loaders.base import Source

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).with_name("robovlms_configs.json").read_text(encoding="utf-8")
)
NAMES = tuple(RECORDED["configs"])
FAMILIES = {
    "kosmos": "kosmos", "paligemma": "paligemma", "llava": "llava_mpt", "flamingo": "flamingo",
}  # fmt: skip
"""`model` of a configuration that is built here -> the tiny model of that family."""
BUILT = [name for name in NAMES if name.partition("_")[0].partition("-")[0] in FAMILIES]
REFUSED = {"moondream": "Moondream", "qwen-vl": "Qwen-VL", "uform": "UForm"}


def values(name: str) -> dict[str, Any]:
    """A configuration with its sections."""
    own = RECORDED["configs"][name]
    made: dict[str, Any] = {}
    for key, value in {**RECORDED["common"], **own["values"]}.items():
        if key not in own["absent"]:
            *sections, last = key.split(".")
            place = made
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
    return made


def write(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**values(name), **changes}), encoding="utf-8")
    return path


def test_what_the_eleven_say(tmp_path: Path) -> None:
    """Counted by hand in the files."""
    read = [read_config(write(tmp_path / name, name)) for name in NAMES]
    assert len(read) == 11
    assert Counter(config.window for config in read) == {8: 7, 16: 4}
    assert Counter(config.hand for config in read) == {False: 7, True: 4}
    assert {(config.chunk, config.history) for config in read} == {(10, "post")}
    assert {config.head["type"] for config in read} == {"LSTMDecoder"}
    spaces = Counter(config.head["action_space"] for config in read)
    assert spaces == {"continuous": 9, "down_sample": 2}
    assert Counter(config.dtype("compat") for config in read) == {"float32": 7, "bfloat16": 4}
    assert Counter(config.dtype("strict") for config in read) == {"float16": 7, "bfloat16": 4}
    bounds = {tuple(config.values[key] for key in ("norm_action", "norm_min", "norm_max"))
              for config in read}  # fmt: skip
    assert bounds == {(True, -0.65, 0.65)}
    assert audit_lora(tmp_path) == {"true": 0, "false": 10, "absent": 1}


@pytest.mark.parametrize("name", BUILT)
def test_stages_of_those_that_are_built(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    observe, actions = declare(Source(ckpt=str(tmp_path), options={"config": str(path)}))
    assert observe == {}
    assert list(actions) == ["ensemble", "split", "unnormalize", "gripper"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BUILT])
def test_those_that_are_not_built_are_answered_with_a_command(tmp_path: Path, name: str) -> None:
    """Before anything is built, and where the configuration is only printed."""
    path = write(tmp_path, name)
    family = next(text for start, text in REFUSED.items() if name.startswith(start))
    command = (
        f"`calvin-eval --ckpt {tmp_path} policy.robovlms_checkout=PATH policy.python=PATH --trust`"
    )
    config = compose_config([f"ckpt={tmp_path}", f"policy.options.config={path}"])
    with pytest.raises(CheckpointError, match=f"found {family} ") as raised:
        render_configs([config])
    assert command in str(raised.value)


@pytest.mark.slow
@pytest.mark.needs("vla")
@pytest.mark.parametrize("name", BUILT)
def test_those_that_are_built_learn_load_and_act(tmp_path: Path, name: str) -> None:
    """Only sizes differ: of the model, of the head, of the images and of the batch."""
    import tiny_vlm
    import torch
    from tiny_batch import batch

    from calvin_eval.vla.compat import Compat
    from calvin_eval.vla.model import RoboVLM
    from calvin_eval.vla.training.forward import Trainee
    from calvin_eval.vla.training.losses import LossWeights
    from calvin_eval.vla.training.setup import TrainSetup, prepare
    from calvin_eval.wrappers.loaders import resolve
    from calvin_eval.wrappers.policy import Request

    config = values(name)
    config["act_head"]["hidden_size"], config["image_size"] = 16, 28
    vlm = tmp_path / config["vlm"]["pretrained_model_name_or_path"]
    tiny_vlm.save_vlm(vlm, FAMILIES[config["model"]])
    (tmp_path / "run-project.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(1)
    model = RoboVLM.build(config, vlm, Compat())
    tiny_vlm.set_weights(model)
    prepare(model, TrainSetup.from_config(config))
    trainee = Trainee(model, LossWeights.from_config(config)).train()
    learned = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    given = batch(config["window_size"], config["fwd_pred_next_n"], model.preprocess.size)
    before = trainee(given)["loss"]
    before.backward()
    optimizer.step()
    assert trainee(given)["loss"].item() < before.item()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "epoch=0-step=1.ckpt")
    loaded = resolve(str(tmp_path))
    report = loaded.metadata["load_report"]
    assert report["missing"]["count"] == report["unexpected"]["count"] == 0
    assert loaded.policy.requirements.rgb == (
        ("static", "gripper") if config["use_hand_rgb"] else ("static",)
    )
    rng = np.random.default_rng(0)
    shapes = {"rgb_static": (200, 200, 3), "rgb_gripper": (84, 84, 3)}
    rgb = {key: rng.integers(0, 256, shape, np.uint8) for key, shape in shapes.items()}
    obs = {"rgb_obs": rgb, "robot_obs": np.zeros(15), "scene_obs": np.zeros(24)}
    loaded.policy.reset(0, "open the drawer")
    request = Request(session=0, instruction="open the drawer", position=0, step=0, obs=obs)
    (chunk,) = loaded.policy.act([request])
    action = np.asarray(chunk)
    assert action.shape == (1, 7)
    assert np.abs(action[:, :6]).max() <= 0.65
    assert action[0, 6] in (-1, 1)
