"""The code of docs/policies.md runs as it is printed."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calvin_eval.wrappers.builtin import RandomPolicy
from calvin_eval.wrappers.loaders import builtin, resolve
from calvin_eval.wrappers.loaders.torch_file import OPTIONS
from calvin_eval.wrappers.tensor_contract import INPUTS, Contract
from calvin_eval.wrappers.testing import check_policy, fake_request

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
TEXT = PAGE.read_text()

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str) -> None:
    """As `python name` does, without importing torch again."""
    runpy.run_path(name, run_name="__main__")


def test_every_python_block_is_a_file():
    assert len(BLOCKS) == TEXT.count("```python") == 9


@pytest.mark.parametrize("name", ["Smooth", "SmoothInCalvinsInterface"])
def test_policies_that_read_their_past(folder, name):
    policy = resolve(f"my_past.py:{name}").policy
    check_policy(policy)
    at_rest, moved = (fake_request(policy.requirements, step=step) for step in (0, 5))
    moved = replace(moved, obs=at_rest.obs)
    chunks = []
    for asked in (at_rest, moved):
        policy.reset(0, "x")
        chunks.append(policy.act([asked])[0])
    past = np.mean([done.sent for done in moved.executed], axis=0)
    np.testing.assert_allclose(chunks[1][0, :6], 0.5 * chunks[0][0, :6] + 0.5 * past[:6])


def test_policies_that_see_points(folder):
    check_policy(resolve("my_points.py:MyPoints").policy)


def test_classes_and_check(folder, capsys):
    run("check_mine.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "Python class my_policy.py:MyPolicy",
        "Python class my_batched_policy.py:MyBatchedPolicy",
    ]
    assert resolve("my_policy.py:MyPolicy", options={"speed": 0.8}).policy.model.speed == 0.8  # type: ignore[attr-defined]


def test_public_shapes(folder):
    (folder / "args.yaml").write_text("speed: 0.8\n")
    shown = re.findall(r"--ckpt public_shapes.py:(\w+) --split D ?(.*)", TEXT)
    assert len(shown) == 6
    for name, settings in shown:
        key, _, value = settings.rpartition(".")[2].partition("=")
        loaded = resolve(
            f"public_shapes.py:{name}",
            interface={key: value} if "interface" in settings else {},
            options={
                **({"speed": 0.8} if "arguments" in settings else {}),
                **({key: value} if "options" in settings else {}),
            },
        )
        check_policy(loaded.policy)


@pytest.mark.parametrize(
    ("script", "ckpt", "trust", "line"),
    [
        (
            "save_torchscript.py",
            "policy.pt",
            False,
            "rgb_static, rgb_gripper, robot_obs, instruction -> 1 action",
        ),
        ("save_export.py", "policy.pt2", True, "robot_obs, rgb_static -> 4 actions"),
    ],
)
@pytest.mark.slow
def test_tensor_examples(folder, script, ckpt, trust, line):
    run(script)
    loaded = resolve(ckpt, trust=trust)
    assert loaded.description.endswith(f": {line}")
    check_policy(loaded.policy)


def test_weights_example(folder):
    torch.save(torch.nn.Linear(15, 7).state_dict(), "weights.pt")
    loaded = resolve("from_weights.py:FromWeights", options={"path": "weights.pt"})
    assert loaded.policy.requirements.cameras == ()
    check_policy(loaded.policy)


def test_contract_tables_are_complete():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \((B[^)]*)\) \| (yes)? ?\|", TEXT, re.MULTILINE)
    documented = {name: (dtype, shape, bool(default)) for name, dtype, shape, default in rows}
    assert documented == {
        name: (
            spec.dtype,
            ", ".join(["B", *map(str, spec.shape)]),
            name in Contract.inputs,
        )
        for name, spec in INPUTS.items()
    }
    for key in ("version", "inputs", "gripper", "max_batch"):
        assert re.search(rf"^\| `{key}` \|", TEXT, re.MULTILINE)


def test_options_and_numbers_that_the_page_names_exist():
    named = set(re.findall(r"policy\.options\.([a-z_]+)=", TEXT))
    known = {*OPTIONS, "hold", "file", "chunk", "speed", "path"}
    assert named <= known
    assert {"device", "gripper", "hold", "file", "chunk"} <= named
    assert f"every {2 * RandomPolicy().hold} steps" in TEXT
    assert set(re.findall(r"`builtin:(\w+)`", TEXT)) == {"expert", "random", "still", "replay"}
    assert builtin.PREFIX == "builtin:"
