"""One call from a configuration to batches, model and policy: the example in docs/robovlms.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from calvin_folder import write_split

import calvin_eval
from calvin_eval.errors import UsageError
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Request

pytestmark = [pytest.mark.slow, pytest.mark.needs("vla")]
PAGE = (Path(__file__).parents[2] / "docs" / "robovlms.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of the example, with a tiny model and small frames."""
    tiny_vlm.save_vlm(tmp_path / ".vlms/kosmos-2-patch14-224", "kosmos")
    data = tmp_path / "data/task_ABC_D"
    for split in ("training", "validation"):
        write_split(data / split, spans=((100, 112),), size=28)
    values = {**tiny_vlm.project("kosmos"), "batch_size": 2, "num_workers": 0}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/kosmos_ph.json").write_text(json.dumps(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n([^`]*open_project.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    assert "'rgb': (2, 4, 3, 28, 28)" in capsys.readouterr().out
    assert names["arm"].shape == (2, 4, 3, 6)
    assert names["policy"].requirements.rgb == ("static", "gripper")
    loss = Trainee(names["project"].model)(names["batch"])["loss"]
    assert 0 < loss.item() < 10


def test_its_policy_is_that_of_the_checkpoint(folder: Path) -> None:
    """The model's own weights saved and evaluated in the usual way give the same actions."""
    given = {"config": "configs/kosmos_ph.json", "vlm": ".vlms/kosmos-2-patch14-224"}
    torch.manual_seed(0)
    first = calvin_eval.open_project(**given)
    tiny_vlm.set_weights(first.model)
    state = {f"model.{key}": value for key, value in first.model.state_dict().items()}
    torch.save({"state_dict": state}, folder / "mine.pt")
    second = calvin_eval.open_project(**given, checkpoint="mine.pt")
    usual = resolve("mine.pt", options=given).policy
    rng = np.random.default_rng(0)
    rgb = {
        "rgb_static": rng.integers(0, 256, (200, 200, 3), np.uint8),
        "rgb_gripper": rng.integers(0, 256, (84, 84, 3), np.uint8),
    }
    obs = {"rgb_obs": rgb, "robot_obs": np.zeros(15), "scene_obs": np.zeros(24)}
    asked = Request(session=0, instruction="open the drawer", position=0, step=0, obs=obs)
    actions = []
    for policy in (first.policy, second.policy, usual):
        policy.reset(0, "open the drawer")
        actions.append(np.asarray(policy.act([asked])[0]))
    assert actions[0].shape == (1, 7)
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])


def test_without_data_there_are_no_batches(folder: Path) -> None:
    values = json.loads(Path("configs/kosmos_ph.json").read_text(encoding="utf-8"))
    del values["val_dataset"]
    Path("configs/bare.json").write_text(json.dumps(values), encoding="utf-8")
    project = calvin_eval.open_project("configs/bare.json", vlm=".vlms/kosmos-2-patch14-224")
    with pytest.raises(UsageError, match=r"expected open_project\(\.\.\., data=FOLDER\)"):
        project.loader("train")
