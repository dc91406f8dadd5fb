"""Model classes in the shapes of public repositories, as they are, and what is said of others."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.base_model import PACKAGE, SIMULATOR
from calvin_eval.wrappers.custom import CustomModelPolicy
from calvin_eval.wrappers.interface import Interface, ModelCalls, read_interface
from calvin_eval.wrappers.loaders import LoadedPolicy, resolve
from calvin_eval.wrappers.loaders.arguments import Arguments
from calvin_eval.wrappers.policy import Chunk
from calvin_eval.wrappers.returned import to_chunk
from calvin_eval.wrappers.testing import fake_request

SHAPES = '''
import numpy as np
from calvin_agent.models.calvin_base_model import CalvinBaseModel

OPEN = [0, 0, 0, 0, 0, 0, 1]


class DualSystem(CalvinBaseModel):
    """As RoboDual, UniVLA, VLA-Adapter: the number of the step decides when to plan anew."""

    requirements = {}

    def __init__(self):
        super().__init__()
        self.planned = []

    def reset(self):
        self.planned.clear()

    def step(self, obs, instruction, step):
        if step % 2 == 0:
            self.planned.append((step, instruction))
        return np.array([[step / 10, 0, 0, 0, 0, 0, 1.0]])


class Transformer(CalvinBaseModel):
    """As GR1-Training: everything that was predicted, the action among it."""

    requirements = {}

    def reset(self):
        pass

    def step(self, obs, goal):
        return {"obs_preds": None, "obs_hand_preds": None, "action_pred": np.array(OPEN)}


class Diffusion(CalvinBaseModel):
    """As OpenHelix and 3DDA: one namespace of arguments."""

    requirements = {}

    def __init__(self, args):
        self.width, self.device = args.model.width, args["device"]
        self.more = vars(args)

    def reset(self):
        pass

    def step(self, obs, goal):
        return OPEN


class Hulc(CalvinBaseModel):
    """As HULC and its family: goals are dicts."""

    requirements = {}

    def reset(self):
        self.goals = []

    def step(self, obs, goal):
        self.goals.append(goal["lang"])
        return OPEN


class Wrapper:
    """As a course's wrapper of ACT: speaks, and has a queue."""

    requirements = {}

    def __init__(self, checkpoint_path="none", device="cpu"):
        print("loaded \\N{ROBOT FACE}", checkpoint_path)

    def reset(self, instruction):
        self.instruction = instruction

    def step(self, obs, goal):
        assert goal == self.instruction
        return OPEN


class Unfinished(CalvinBaseModel):
    def step(self, obs, goal):
        return OPEN


def build(cfg, seed=0):
    return Transformer() if cfg.kind == "transformer" else None
'''


SCRIPT = """
import calvin_agent
import calvin_env
from calvin_agent.models.calvin_base_model import CalvinBaseModel
from calvin_agent.evaluation.multistep_sequences import get_sequences
from calvin_agent.evaluation.utils import count_success, get_log_dir
from calvin_env.envs.play_table_env import PlayTableSimEnv, get_env
from calvin_env.utils import *


class Environment(PlayTableSimEnv):
    def step(self, action):
        return super().step(action)


class Model(CalvinBaseModel):
    requirements = {}

    def reset(self):
        pass

    def step(self, obs, goal):
        return [0, 0, 0, 0, 0, 0, 1]


def main(environments: list[get_env] = (), sequences=get_sequences):
    for chain in sequences(count_success(1000)):
        Environment(get_log_dir(calvin_agent.__file__))
"""


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shapes.py").write_text(SHAPES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def decide(loaded: LoadedPolicy, steps: int = 3) -> list[Chunk]:
    """A first subtask's decisions."""
    policy = loaded.policy
    requests = [fake_request(policy.requirements, 5, step=step) for step in range(steps)]
    policy.reset(5, requests[0].instruction)
    return [policy.act([request])[0] for request in requests]


def model_of(loaded: LoadedPolicy) -> object:
    assert isinstance(loaded.policy, CustomModelPolicy)
    return loaded.policy.model


class TestTheBaseClass:
    def test_it_is_there_while_the_file_is_loaded_and_not_after(self, shapes: Path) -> None:
        loaded = resolve("shapes.py:Transformer")
        assert not [name for name in sys.modules if name.split(".")[0] == PACKAGE]
        (base,) = type(model_of(loaded)).__bases__
        assert base.__name__ == "CalvinBaseModel"

    def test_one_that_is_installed_is_used(self, shapes: Path) -> None:
        folder = shapes / PACKAGE / "models"
        folder.mkdir(parents=True)
        for init in (folder.parent, folder):
            (init / "__init__.py").write_text("")
        (folder / "calvin_base_model.py").write_text("class CalvinBaseModel:\n    own = True\n")
        model = model_of(resolve("shapes.py:Transformer"))
        assert model.own  # type: ignore[attr-defined]
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]

    def test_a_folder_without_anything_in_it_is_no_package(self, shapes: Path) -> None:
        (shapes / PACKAGE).mkdir()
        resolve("shapes.py:Transformer")

    def test_a_class_may_stand_in_the_file_of_the_evaluation(self, shapes: Path) -> None:
        """As those of RoboFlamingo, Seer and HARP-VLA, whose file imports all of the loop."""
        (shapes / "script.py").write_text(SCRIPT)
        loaded = resolve("script.py:Model")
        assert decide(loaded, 1)[0][0, 6] == 1
        packages = (PACKAGE, SIMULATOR)
        assert not [name for name in sys.modules if name.split(".")[0] in packages]
        assert not [finder for finder in sys.meta_path if "Offered" in type(finder).__name__]

    @pytest.mark.parametrize(
        ("used", "named"),
        [
            ("calvin_agent.utils.utils.get_checkpoints()", "calvin_agent.utils.utils.get_check"),
            ("calvin_agent.Something.of_it", "calvin_agent.Something"),
            ("type('Mine', (calvin_agent.Base,), {})()", "calvin_agent.Base"),
            ("calvin_env.envs.play_table_env.get_env('x')", "calvin_env.envs.play_table_env.get"),
        ],
    )
    def test_the_rest_of_the_packages_is_names_that_cannot_be_used(
        self, shapes: Path, used: str, named: str
    ) -> None:
        module = ".".join(part for part in used.split("(")[0].split(".")[:-1] if part.islower())
        imported = "calvin_agent" if used.startswith("type") else module
        (shapes / "uses.py").write_text(f"import calvin_agent, {imported}\n\n{used}\n")
        with pytest.raises(
            CheckpointError, match=rf"NotInstalledError at uses\.py:3: {named}\w* is used, but"
        ):
            resolve("uses.py:Model")

    def test_what_such_a_module_does_not_have_is_not_made_up(self, shapes: Path) -> None:
        (shapes / "uses.py").write_text("import calvin_agent\nprint(calvin_agent.__file__)\n")
        with pytest.raises(CheckpointError, match=r"AttributeError at uses\.py:2"):
            resolve("uses.py:Model")

    def test_a_method_that_only_the_base_class_has_is_missing(self, shapes: Path) -> None:
        with pytest.raises(CheckpointError, match="Unfinished without reset"):
            resolve("shapes.py:Unfinished")


def test_the_number_of_the_step_is_given_to_those_who_ask(shapes: Path) -> None:
    loaded = resolve("shapes.py:DualSystem")
    assert "reset() and step(obs, instruction, step), the last being the number" in (
        loaded.description
    )
    assert [chunk[0][0] for chunk in decide(loaded)] == [0, 0.1, 0.2]
    assert [step for step, _ in model_of(loaded).planned] == [0, 2]  # type: ignore[attr-defined]


def test_a_named_action_is_found_among_the_results(shapes: Path) -> None:
    loaded = resolve("shapes.py:Transformer")
    np.testing.assert_array_equal(decide(loaded, 1)[0], [[0, 0, 0, 0, 0, 0, 1]])


class Deep:
    """Several results, the action among those of one of them."""

    def reset(self) -> None:
        pass

    def step(self, obs: object, goal: object) -> object:
        return {"predictions": [None, {"action": OPENED}], "losses": {"actions": OPENED}}


OPENED = [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("key", ["predictions.1.action", "losses.actions"])
def test_an_action_may_lie_deeper(key: str) -> None:
    policy = CustomModelPolicy(Deep, "deep", Interface(action=key))
    policy.reset(0, "x")
    (chunk,) = policy.act([fake_request(policy.requirements)])
    np.testing.assert_array_equal(chunk, [OPENED])


def test_where_it_lies_is_proposed() -> None:
    with pytest.raises(PolicyError, match=r"policy\.interface\.action=losses\.actions\.$"):
        to_chunk(Deep().step(None, None), "deep")
    with pytest.raises(PolicyError, match=r"If its action is the action, say so: .*action=action"):
        to_chunk(SimpleNamespace(action=OPENED), "object")
    with pytest.raises(PolicyError, match=r"expected 3 in what step\(\) returns"):
        to_chunk(Deep().step(None, None), "deep", "predictions.3")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ((np.array(OPENED), {"progress": 1}, None), r"policy\.interface\.action=0 is the first"),
        ((np.array(OPENED), {"progress": 1}), r"policy\.interface\.action=0 is the first"),
        ({"action": {"arm": OPENED[:6], "gripper": 1}}, "a dict with the keys arm, gripper: expec"),
    ],
)
def test_what_is_more_or_less_than_an_action_is_refused_with_the_remedy(
    output: object, said: str
) -> None:
    with pytest.raises(PolicyError, match=said):
        to_chunk(output, "m.py:M")


def test_goals_are_text_or_dicts(shapes: Path) -> None:
    loaded = resolve("shapes.py:Hulc", interface={"goal": "dict"})
    assert loaded.description.count("the goal being a dict with lang") == 1
    decide(loaded, 1)
    asked = fake_request(loaded.policy.requirements, 5)
    assert model_of(loaded).goals == [asked.instruction]  # type: ignore[attr-defined]
    with pytest.raises(PolicyError, match=r"policy\.interface\.goal=dict"):
        decide(resolve("shapes.py:Hulc"))


def test_a_reset_may_take_the_instruction(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = resolve("shapes.py:Wrapper")
    assert "reset(instruction) and step(obs, goal)" in loaded.description
    decide(loaded)


NESTED = {"args": {"model": {"width": 64}, "device": "cpu"}}


class TestArguments:
    @pytest.mark.parametrize("options", [NESTED, NESTED["args"]], ids=["named", "spread"])
    def test_a_namespace(self, shapes: Path, options: dict[str, object]) -> None:
        model = model_of(resolve("shapes.py:Diffusion", options=options))
        assert model.width == 64  # type: ignore[attr-defined]
        assert model.more == NESTED["args"]  # type: ignore[attr-defined]

    def test_a_factory_with_a_table_and_an_argument(self, shapes: Path) -> None:
        loaded = resolve("shapes.py:build", options={"kind": "transformer", "seed": 3})
        assert loaded.metadata["class_name"] == "Transformer"

    def test_nothing_is_made_up_where_nothing_is_given(self, shapes: Path) -> None:
        with pytest.raises(UsageError, match=r"missing a required argument: 'args'.*policy\.argu"):
            resolve("shapes.py:Diffusion")

    def test_an_entry_that_is_missing_is_named(self, shapes: Path) -> None:
        with pytest.raises(CheckpointError, match=r"shapes\.py:\d+: no argument 'width'.* depth"):
            resolve("shapes.py:Diffusion", options={"model": {"depth": 2}, "device": "cpu"})

    def test_a_table_is_a_dict_and_a_namespace(self) -> None:
        table = Arguments({"a": {"b": 1}, "c": [{"d": 2}]})
        assert table.a.b == table["a"]["b"] == 1
        assert table.c[0].d == 2
        for copied in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
            assert copied.a.b == 1
        assert json.loads(json.dumps(table)) == vars(table) == dict(**table)
        table.e = 3
        del table.a
        assert dict(table) == {"c": [{"d": 2}], "e": 3}
        assert not hasattr(table, "a")
        with pytest.raises(AttributeError, match="no argument 'a'"):
            del table.a

    def test_whoever_takes_no_other_dicts_gets_plain_ones(self, shapes: Path) -> None:
        (shapes / "strict.py").write_text(
            "from omegaconf import OmegaConf\n"
            "class Model:\n"
            "    def __init__(self, cfg): self.cfg = OmegaConf.create(cfg)\n"
            "    def reset(self): ...\n"
            "    def step(self, obs, goal): return [0.0] * 7\n"
        )
        options = {"cfg": {"width": 64}}
        with pytest.raises(CheckpointError, match=r"set policy\.interface\.arguments=dict or omeg"):
            resolve("strict.py:Model", options=options)
        loaded = resolve("strict.py:Model", options=options, interface={"arguments": "dict"})
        assert model_of(loaded).cfg.width == 64  # type: ignore[attr-defined]


class TestSignatures:
    @pytest.mark.parametrize(
        ("parameters", "called"),
        [
            ("obs, goal", ("obs", "text")),
            ("obs, goal, *args, **more", ("obs", "text")),
            ("*args", ("obs", "text")),
            ("instruction, obs", ("text", "obs")),
            ("lang_goal, observation, step", ("text", "obs", 4)),
            ("goal_obs, obs_goal", ("obs", "text")),
            ("obs, goal, step", ("obs", "text", 4)),
            ("obs, lang, curr_step", ("obs", "text", 4)),
            ("obs, lang, timestep=None", ("obs", "text", 4)),
            ("obs, goal, *, step_idx", ("obs", "text", 4)),
            ("obs, goal, get_action=True", ("obs", "text")),
            ("obs, goal, steps=10", ("obs", "text")),
            ("obs, goal, diffusion_steps=10", ("obs", "text")),
            ("obs, goal, step, history=None", ("obs", "text", 4)),
        ],
    )
    def test_step_is_called_as_it_wants(self, parameters: str, called: tuple[object, ...]) -> None:
        calls = ModelCalls(self.model(parameters), "m.py:M", Interface())
        assert calls.step({"robot_obs": 0}, "text", 4) == called
        assert ("number of the step" in calls.description) == (len(called) == 3)

    def model(self, parameters: str) -> object:
        """One whose `step` returns what it got, the observation as "obs"."""
        space: dict[str, object] = {}
        exec(
            f"def step(self, {parameters}):\n"
            "    given = dict(locals())\n"
            "    found = []\n"
            "    for value in given.values():\n"
            "        found += value if type(value) is tuple else [value]\n"
            "    return tuple('obs' if type(v) is dict and v else v for v in found\n"
            "                 if v == 'text' or (type(v) is int and v == 4)\n"
            "                 or (type(v) is dict and v))\n",
            space,
        )
        body = {"reset": lambda self: None, "step": space["step"]}
        return type("M", (), body)()

    @pytest.mark.parametrize(
        "parameters", ["", "obs", "obs, goal, robot", "obs, goal, step, env", "obs, goal, *, env"]
    )
    def test_what_cannot_be_called_is_refused(self, parameters: str) -> None:
        space: dict[str, object] = {}
        exec(f"def step(self, {parameters}): pass", space)
        model = type("M", (), {"reset": lambda self: None, "step": space["step"]})()
        with pytest.raises(CheckpointError, match=r"m\.py:M: step\(.*cannot be called"):
            ModelCalls(model, "m.py:M", Interface())

    @pytest.mark.parametrize("parameters", ["seed", "goal, seed", "goal, /"])
    def test_a_reset_that_wants_something_else_is_refused(self, parameters: str) -> None:
        space: dict[str, object] = {}
        exec(f"def reset(self, {parameters}): pass", space)
        model = type("M", (), {"step": lambda self, obs, goal: 0, "reset": space["reset"]})()
        with pytest.raises(CheckpointError, match=r"reset\(.*cannot be called.*the instruction"):
            ModelCalls(model, "m.py:M", Interface())


class TestResults:
    ACTION = np.arange(7.0)

    @pytest.mark.parametrize("key", ["action", "action_pred", "actions"])
    def test_known_names(self, key: str) -> None:
        chunk = to_chunk({key: self.ACTION, "loss": 0.1}, "m")
        np.testing.assert_array_equal(chunk, self.ACTION[None])

    def test_a_chunk_under_a_name(self) -> None:
        assert len(to_chunk({"actions": np.zeros((1, 8, 7))}, "m")) == 8

    @pytest.mark.parametrize(
        ("output", "key"),
        [
            ({"pred": ACTION, "action": None}, "pred"),
            ((ACTION, {"info": 1}), 0),
            (type("Output", (), {"pred": ACTION})(), "pred"),
        ],
    )
    def test_a_name_of_ones_own(self, output: object, key: str | int) -> None:
        np.testing.assert_array_equal(to_chunk(output, "m", key), self.ACTION[None])

    @pytest.mark.parametrize(
        ("output", "key", "message"),
        [
            ({"pred": ACTION}, None, r"keys pred: .*policy\.interface\.action=KEY"),
            ({"action": ACTION, "actions": ACTION}, None, "exactly one of action, action_pred"),
            ({"action": ACTION}, "pred", r"'pred' in what step\(\) returns .* keys action"),
            (ACTION, "pred", r"found ndarray"),
            ((ACTION, {}), None, r"policy\.interface\.action=0 is the first"),
            ((ACTION,), 3, r"expected 3 in what"),
        ],
    )
    def test_what_is_not_there_is_named(
        self, output: object, key: str | int | None, message: str
    ) -> None:
        with pytest.raises(PolicyError, match=message):
            to_chunk(output, "m", key)


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"gaol": "dict"}, UnknownNameError, "Did you mean 'goal'"),
            ({"goal": "list"}, UnknownNameError, r"policy\.interface\.goal 'list'"),
            ({"arguments": "namespace"}, UnknownNameError, "attributes, dict"),
            ({"action": 0.5}, UsageError, "a key, an index or null, found 0.5"),
            ({"action": True}, UsageError, "found True"),
        ],
    )
    def test_mistakes_are_explained(
        self, values: dict[str, object], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            read_interface(values)

    def test_they_are_for_classes_of_that_interface(self, shapes: Path) -> None:
        with pytest.raises(UsageError, match=r"policy\.interface says how a Python class"):
            resolve("builtin:still", interface={"goal": "dict"})
