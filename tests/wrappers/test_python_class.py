from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.custom import CustomModelPolicy
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.testing import check_policy

MODEL = """
from dataclasses import dataclass

from helper_of_model import gripper


@dataclass
class Model:
    speed: float = 0.5
    gain: object = None

    def reset(self):
        pass

    def step(self, obs, goal):
        return [0, 0, self.speed, 0, 0, 0, gripper()]


class Batched:
    from calvin_eval.wrappers.policy import Requirements
    requirements = Requirements(rgb=("static",))

    def reset(self, session, instruction):
        pass

    def act(self, requests):
        import numpy as np
        return [np.ones((2, 7)) for _ in requests]


def make(**options):
    return Model(**options)


class NotAPolicy:
    pass


class NoRequirements(Batched):
    requirements = {"rgb": ["static"]}


class NoReset(Batched):
    reset = None


class Broken:
    def __init__(self):
        raise RuntimeError("no weights here")


NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "helper_of_model.py").write_text("def gripper():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "helper_of_model", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "ckpt", ["my_model.py:Model", "my_model:Model", "{folder}/my_model.py:Model"]
)
def test_custom_model(folder, ckpt):
    path, modules = list(sys.path), set(sys.modules)
    ckpt = ckpt.format(folder=folder)
    loaded = resolve(ckpt, options={"speed": 0.25})
    assert sys.path == path
    new = set(sys.modules) - modules
    assert "my_model" not in new
    assert isinstance(loaded.policy, CustomModelPolicy)
    assert loaded.policy.model.speed == 0.25
    assert loaded.description.startswith(f"Python class {ckpt} (my_model.py, sha256 ")
    check_policy(loaded.policy)


def test_class_of_our_own_protocol(folder):
    loaded = resolve("my_model.py:Batched")
    assert loaded.policy.requirements == Requirements(rgb=("static",))
    assert loaded.metadata["interface"] == "policy"
    assert "rgb_static" in loaded.description
    check_policy(loaded.policy)


def test_function_that_makes_a_policy(folder):
    loaded = resolve("my_model.py:make", options={"speed": 1.0})
    assert loaded.metadata["class_name"] == "Model"
    assert loaded.policy.model.speed == 1.0  # type: ignore[attr-defined]


def test_installed_module(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_policies"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "still.py").write_text(
        "class S:\n"
        "    def reset(self): ...\n"
        "    def step(self, obs, goal): return [0.0] * 6 + [1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = resolve("a_package_of_policies.still:S")
    assert loaded.metadata["source"] == "still.py"
    check_policy(loaded.policy)


def test_metadata_is_json_and_names_the_source(folder):
    loaded = resolve("my_model.py:Model", options={"speed": 0.1, "gain": object})
    header = json.loads(json.dumps(loaded.metadata))
    assert header["kind"] == "class"
    assert header["class_name"] == "Model"
    assert header["interface"] == "custom_model"
    assert header["size"] == len(MODEL)
    assert header["options"] == {"speed": 0.1, "gain": "<class 'object'>"}
    assert str(folder) not in json.dumps(header)


def test_two_files_of_one_name_do_not_meet(folder):
    other = folder / "other"
    other.mkdir()
    (other / "my_model.py").write_text(
        "class Model:\n    def reset(self): ...\n    def step(self, obs, goal): return [0.0] * 7\n"
    )
    first, second = resolve("my_model.py:Model"), resolve("other/my_model.py:Model")
    assert type(first.policy.model) is not type(second.policy.model)  # type: ignore[attr-defined]
    assert sys.modules[type(first.policy.model).__module__].__file__ != (  # type: ignore[attr-defined]
        sys.modules[type(second.policy.model).__module__].__file__  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(
    ("ckpt", "options", "error", "message"),
    [
        ("my_model.py:Modell", {}, UnknownNameError, "Did you mean 'Model'"),
        ("my_model.py:Model", {"sped": 1}, UnknownNameError, "Did you mean 'speed'"),
        ("my_model.py:NUMBER", {}, CheckpointError, "is a int: expected a class"),
        ("my_model.py:NotAPolicy", {}, CheckpointError, "NotAPolicy without reset and step"),
        ("my_model.py:NoRequirements", {}, CheckpointError, "type Requirements"),
        ("my_model.py:NoReset", {}, CheckpointError, r"expected reset\(session"),
        (
            "my_model.py:Broken",
            {},
            CheckpointError,
            r"RuntimeError at my_model.py:\d+: no weights here\.$",
        ),
        ("none.py:Model", {}, CheckpointError, "no such file: none.py"),
        ("no_such_module_here:Model", {}, CheckpointError, "neither installed"),
        ("json:dumps", {}, UsageError, "missing a required argument"),
        ("my_model.py", {}, CheckpointError, "name the class"),
    ],
)
def test_mistakes_are_explained_in_one_line(folder, ckpt, options, error, message):
    with pytest.raises(error, match=message) as caught:
        resolve(ckpt, options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_a_module_at_all\n", "ModuleNotFoundError.*not_a_module_at_all"),
        ("class Model(:\n", r"SyntaxError: invalid syntax \(broken_model.py, line 1\)\.$"),
        ("import sys\nsys.exit(3)\n", "__main__"),
        ("1 / 0\n", r"ZeroDivisionError at broken_model.py:1: division by zero\.$"),
    ],
)
def test_code_that_cannot_be_imported(folder, source, message):
    (folder / "broken_model.py").write_text(source)
    path = list(sys.path)
    with pytest.raises(CheckpointError, match=message):
        resolve("broken_model.py:Model")
    assert sys.path == path
    assert not [name for name in sys.modules if "broken_model" in name]


def test_constructor_may_import_its_neighbours(folder):
    (folder / "late_model.py").write_text(
        "class Model:\n"
        "    def __init__(self):\n"
        "        from helper_of_model import gripper\n"
        "        self.gripper = gripper\n"
        "    def reset(self): ...\n"
        "    def step(self, obs, goal): return [0.0] * 6 + [self.gripper()]\n"
    )
    loaded = resolve("late_model.py:Model")
    assert loaded.policy.model.step({}, "")[-1] == 1  # type: ignore[attr-defined]


def test_numpy_output_type_survives(folder):
    (folder / "half_model.py").write_text(
        "import numpy as np\n"
        "class Model:\n"
        "    def reset(self): ...\n"
        "    def step(self, obs, goal): return np.ones(7, np.float16)\n"
    )
    policy = resolve("half_model.py:Model").policy
    policy.reset(0, "a")
    from calvin_eval.wrappers.testing import fake_request

    assert policy.act([fake_request(policy.requirements)])[0].dtype == np.float16
