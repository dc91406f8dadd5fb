from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.loaders.torch_file import _Forward
from calvin_eval.wrappers.loaders.weights import PickleFacts, inspect_pickle
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MODULES = '''
import torch


class Net(torch.nn.Module):
    """Actions from proprioception and one image; chunks of four."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(18, 28)
        self.drop = torch.nn.Dropout(0.9)

    def forward(self, robot_obs: torch.Tensor, rgb_static: torch.Tensor) -> torch.Tensor:
        image = rgb_static.float().mean(dim=(1, 2)) / 255
        features = self.drop(torch.cat([robot_obs, image], dim=1))
        return torch.tanh(self.head(features)).reshape(-1, 4, 7)


class Proprio(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs[:, :7])


class One(torch.nn.Module):
    """Works for one request only."""

    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs.reshape(15)[:7]).reshape(1, 7)


class Half(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs[:, :7]).to(torch.bfloat16)


class Two(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return robot_obs[:, :7], robot_obs


class Wide(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return robot_obs[:, :8]


class Floats(torch.nn.Module):
    def forward(self, rgb_static: torch.Tensor) -> torch.Tensor:
        return rgb_static.reshape(rgb_static.shape[0], -1)[:, :7]


class Reader(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/etc/hostname", False, 7, dtype=torch.uint8)[None].float()


class Nan(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return robot_obs[:, :7] / 0 * 0
'''
INPUTS = {"Net": ["robot_obs", "rgb_static"], "Floats": ["rgb_static"]}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A module of networks: scripting and pickling need source in a file."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets_for_tests.py").write_text(MODULES)
    sys.path.insert(0, str(folder))
    import nets_for_tests

    yield nets_for_tests
    sys.path.remove(str(folder))
    del sys.modules["nets_for_tests"]


def declared(name: str, **extra) -> dict[str, str]:
    return {"calvin_eval.json": json.dumps({"inputs": INPUTS.get(name, ["robot_obs"]), **extra})}


@pytest.fixture
def script(nets, tmp_path):
    def save(name: str, **extra) -> str:
        path = tmp_path / f"{name}.pt"
        scripted = torch.jit.script(getattr(nets, name)())
        torch.jit.save(scripted, path, _extra_files=declared(name, **extra))
        return str(path)

    return save


EXAMPLES = {
    "Net": (torch.zeros(2, 15), torch.zeros(2, 200, 200, 3, dtype=torch.uint8)),
    "Floats": (torch.zeros(2, 200, 200, 3),),
}


@pytest.fixture
def export(nets, tmp_path):
    def save(name: str, batch: int | torch.export.Dim | None = None) -> str:
        path = tmp_path / f"{name}.pt2"
        example = EXAMPLES.get(name, (torch.zeros(2, 15),))
        if isinstance(batch, int):
            example, shapes = tuple(torch.cat([x[:1]] * batch) for x in example), None
        else:
            shapes = tuple({0: batch or torch.export.Dim("batch")} for _ in example)
        program = torch.export.export(getattr(nets, name)().eval(), example, dynamic_shapes=shapes)
        torch.export.save(program, path, extra_files=declared(name))
        return str(path)

    return save


def expected_actions(nets, asked) -> np.ndarray:
    robot = torch.from_numpy(asked.obs["robot_obs"].astype(np.float32))[None]
    image = torch.from_numpy(asked.obs["rgb_obs"]["rgb_static"])[None]
    with torch.inference_mode():
        out = nets.Net().eval()(robot, image)[0].numpy().copy()
    out[:, 6] = np.where(out[:, 6] > 0, 1, -1)
    return out


def act(loaded, count: int = 3):
    asked = [fake_request(loaded.policy.requirements, session) for session in range(count)]
    return asked, loaded.policy.act(asked)


class TestTorchScript:
    @pytest.mark.slow
    def test_gives_the_networks_actions(self, nets, script):
        loaded = resolve(script("Net"))
        asked, chunks = act(loaded)
        for request, chunk in zip(asked, chunks, strict=True):
            np.testing.assert_allclose(chunk, expected_actions(nets, request), atol=1e-6)
        check_policy(loaded.policy)

    def test_says_what_it_recognised(self, script):
        path = script("Net")
        loaded = resolve(path)
        sha = loaded.metadata["sha256"]
        assert loaded.description.startswith(f"TorchScript policy Net.pt (sha256 {sha[:12]}, ")
        assert loaded.description.endswith("kB): robot_obs, rgb_static -> 4 actions")
        assert loaded.metadata["contract"] == {
            "version": 1,
            "inputs": ["robot_obs", "rgb_static"],
            "gripper": "sign",
            "max_batch": None,
        }
        assert json.loads(json.dumps(loaded.metadata)) == loaded.metadata

    def test_profiling_optimizer_is_off(self):
        # It would change the program, and on a GPU the bits, after the second call.
        seen = []

        def module(robot_obs):
            seen.append(
                (torch._C._get_graph_executor_optimize(), torch.is_inference_mode_enabled())
            )
            return robot_obs

        _Forward(module, "cpu")([np.zeros((1, 15), np.float32)])
        assert seen == [(False, True)]
        assert torch._C._get_graph_executor_optimize()

    def test_same_bits_in_every_call(self, script):
        loaded = resolve(script("Net"))
        _, first = act(loaded)
        for _ in range(4):
            _, again = act(loaded)
            np.testing.assert_array_equal(np.stack(again), np.stack(first))

    def test_max_batch_one_makes_batches_exact(self, script):
        loaded = resolve(script("Net"), options={"max_batch": 1})
        asked, together = act(loaded, 5)
        apart = [loaded.policy.act([request])[0] for request in asked]
        np.testing.assert_array_equal(np.stack(together), np.stack(apart))
        assert loaded.metadata["contract"]["max_batch"] == 1

    def test_networks_of_batch_one(self, script):
        loaded = resolve(script("One"))
        assert loaded.description.endswith("-> 1 action, one request per forward")
        check_policy(loaded.policy)

    def test_bfloat16_becomes_float32(self, script):
        _, chunks = act(resolve(script("Half")))
        assert chunks[0].dtype == np.float32

    def test_options_override_the_file(self, script):
        loaded = resolve(script("Proprio", gripper="exact"), options={"gripper": "sign"})
        assert loaded.policy.contract.gripper == "sign"  # type: ignore[attr-defined]

    def test_defaults_without_metadata(self, nets, tmp_path):
        torch.jit.save(torch.jit.script(nets.Proprio()), tmp_path / "p.pt")
        with pytest.raises(CheckpointError, match=r"takes 1 inputs, the contract passes 4"):
            resolve(str(tmp_path / "p.pt"))
        loaded = resolve(str(tmp_path / "p.pt"), options={"inputs": ["robot_obs"]})
        check_policy(loaded.policy)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("Two", "one tensor of actions, found tuple"),
            ("Wide", r"\(1, 7\) or \(1, k, 7\), found float32 of shape \(1, 8\)"),
            ("Floats", "found uint8"),
        ],
    )
    def test_broken_contracts_show_before_the_run(self, script, name, message):
        with pytest.raises(CheckpointError, match=message):
            resolve(script(name))

    def test_nan_is_an_error_of_the_chain(self, script):
        loaded = resolve(script("Nan"))
        with pytest.raises(PolicyError, match=r"Nan\.pt on chain 0, subtask 0, step 0.*finite"):
            act(loaded)

    def test_operators_on_files_need_trust(self, script):
        path = script("Reader")
        with pytest.raises(CheckpointError, match=r"'from_file'.*--trust"):
            resolve(path)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"devise": "cpu"}, UnknownNameError, "Did you mean 'device'"),
            ({"device": "warp:9"}, UsageError, "device 'warp:9' cannot be used here"),
            ({"gripper": "left"}, UnknownNameError, "options of"),
        ],
    )
    def test_wrong_options(self, script, options, error, message):
        with pytest.raises(error, match=message):
            resolve(script("Proprio"), options=options)

    def test_wrong_metadata_names_the_file(self, script):
        with pytest.raises(
            UnknownNameError, match=r"calvin_eval.json in Proprio.pt 'griper'.*'gripper'"
        ):
            resolve(script("Proprio", griper="sign"))

    @pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
    def test_truncated_files(self, script, keep):
        path = Path(script("Net"))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            resolve(str(path))

    def test_flipped_weights_are_noticed(self, script):
        path = Path(script("Net"))
        content = bytearray(path.read_bytes())
        weights = torch.jit.load(path).head.bias.detach().numpy().tobytes()
        content[content.index(weights)] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged.*wrong checksum of Net/data/"):
            resolve(str(path))


@pytest.mark.slow
class TestExport:
    def test_needs_trust(self, export):
        with pytest.raises(CheckpointError, match=r"torch.export archive.*--trust"):
            resolve(export("Proprio"))

    def test_gives_the_networks_actions(self, nets, export):
        loaded = resolve(export("Net"), trust=True)
        asked, chunks = act(loaded)
        for request, chunk in zip(asked, chunks, strict=True):
            np.testing.assert_allclose(chunk, expected_actions(nets, request), atol=1e-6)
        check_policy(loaded.policy)
        assert loaded.kind == "export"
        assert loaded.metadata["trusted"] is True
        assert loaded.metadata["contract"]["max_batch"] is None

    def test_fixed_batch_of_one(self, export):
        loaded = resolve(export("Net", batch=1), trust=True)
        assert loaded.description.endswith("one request per forward")
        check_policy(loaded.policy)

    def test_other_fixed_batches_are_refused(self, export):
        with pytest.raises(CheckpointError, match="fixed batch of 3"):
            resolve(export("Net", batch=3), trust=True)

    def test_limited_batches_are_split(self, export):
        loaded = resolve(export("Net", batch=torch.export.Dim("batch", max=2)), trust=True)
        assert loaded.metadata["contract"]["max_batch"] == 2
        assert len(act(loaded, 5)[1]) == 5

    def test_inputs_are_compared_with_the_contract(self, export):
        with pytest.raises(CheckpointError, match=r"rgb_static as uint8.*exported for float32"):
            resolve(export("Floats"), trust=True)

    def test_wrong_number_of_inputs(self, export):
        with pytest.raises(CheckpointError, match="takes 2 inputs, the contract passes 1"):
            resolve(export("Net"), trust=True, options={"inputs": ["robot_obs"]})

    def test_truncated(self, export):
        path = Path(export("Proprio"))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            resolve(str(path), trust=True)


class TestPickles:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("wrap", ["plain", "nested", "tensor", "list"])
    def test_weights_have_no_architecture(self, nets, tmp_path, zipped, protocol, wrap):
        state = nets.Net().state_dict()
        content = {
            "plain": state,
            "nested": {"epoch": 3, "state_dict": state},
            "tensor": state["head.weight"],
            "list": list(state.values()),
        }[wrap]
        path = tmp_path / "w.pt"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        count = 1 if wrap == "tensor" else 2
        named = "'head.weight'.*" if wrap in ("plain", "nested") else ""
        for trust in (False, True):
            with pytest.raises(
                CheckpointError,
                match=rf"without an architecture \({count} tensors.*{named}policy.options.path=",
            ):
                resolve(str(path), trust=trust)

    def test_names_that_were_pickled_before(self, tmp_path):
        # Protocol 4 writes a text once and refers back to it, here to the rebuilder's module.
        module = torch._utils._rebuild_tensor_v2.__module__
        torch.save({module: 0, "w": torch.ones(2)}, tmp_path / "w.pt", pickle_protocol=4)
        assert inspect_pickle(tmp_path / "w.pt") == PickleFacts(root=None, tensors=1, example="w")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_modules_need_trust(self, nets, tmp_path, zipped, protocol):
        path = tmp_path / "m.pt"
        torch.save(
            nets.Net(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(CheckpointError, match=r"nets_for_tests\.Net.*any code: pass --trust"):
            resolve(str(path))
        loaded = resolve(str(path), trust=True, options={"inputs": INPUTS["Net"]})
        asked, chunks = act(loaded)
        np.testing.assert_allclose(chunks[0], expected_actions(nets, asked[0]), atol=1e-6)
        assert loaded.kind == "module"
        check_policy(loaded.policy)

    def test_nothing_runs_without_trust(self, tmp_path):
        torch.save(Trap(tmp_path / "sprung"), tmp_path / "t.pt")
        torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "d.pt")
        for name in ("t.pt", "d.pt"):
            with pytest.raises(CheckpointError):
                resolve(str(tmp_path / name))
        assert not (tmp_path / "sprung").exists()

    def test_trusted_objects_must_be_modules(self, tmp_path):
        torch.save(Trap(tmp_path / "sprung"), tmp_path / "t.pt")
        with pytest.raises(CheckpointError, match=r"expected a torch\.nn\.Module"):
            resolve(str(tmp_path / "t.pt"), trust=True)

    def test_code_that_is_gone(self, nets, tmp_path, monkeypatch):
        torch.save(nets.Net(), tmp_path / "m.pt")
        monkeypatch.delattr(nets, "Net")
        with pytest.raises(CheckpointError, match="code that is not installed here"):
            resolve(str(tmp_path / "m.pt"), trust=True)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_the_name_does_not_matter(script, tmp_path):
    shutil.copy(script("Proprio"), tmp_path / "weights.safetensors")
    assert resolve(str(tmp_path / "weights.safetensors")).kind == "torchscript"
