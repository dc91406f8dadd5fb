from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.errors import CalvinEvalError, CheckpointError, PolicyError, UnknownNameError
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.tensor_contract import (
    INPUTS,
    Contract,
    TensorPolicy,
    encode_instruction,
    parse_contract,
    read_metadata,
)
from calvin_eval.wrappers.tensor_probe import probe
from calvin_eval.wrappers.testing import check_policy, fake_request

DEFAULT = Contract()
PROPRIO = Contract(inputs=("robot_obs",))


class Net:
    """Actions from proprioception; remembers what it was given."""

    def __init__(self, chunk: int | None = None, gripper: float = 0.3) -> None:
        self.chunk, self.gripper, self.given = chunk, gripper, []  # type: ignore[var-annotated]

    def __call__(self, arrays):
        self.given.append(arrays)
        robot = next(a for a in arrays if a.shape[1:] == (15,))
        actions = np.tanh(robot[:, :7])
        actions[:, 6] = self.gripper
        return actions if self.chunk is None else np.stack([actions] * self.chunk, axis=1)


def requests(count: int = 3, contract: Contract = DEFAULT):
    return [fake_request(contract.requirements, session) for session in range(count)]


class TestInputs:
    def test_every_input_has_its_documented_form(self):
        contract = Contract(inputs=tuple(INPUTS))
        net = Net()
        asked = requests(2, contract)
        TensorPolicy(net, contract, "net").act(asked)
        (arrays,) = net.given
        assert [(a.shape, str(a.dtype)) for a in arrays] == [
            ((2, 200, 200, 3), "uint8"),
            ((2, 84, 84, 3), "uint8"),
            ((2, 15), "float32"),
            ((2, 256), "int64"),
            ((2, 200, 200), "float32"),
            ((2, 84, 84), "float32"),
        ]
        for index, one in enumerate(asked):
            np.testing.assert_array_equal(arrays[0][index], one.obs["rgb_obs"]["rgb_static"])
            np.testing.assert_array_equal(arrays[1][index], one.obs["rgb_obs"]["rgb_gripper"])
            np.testing.assert_array_equal(arrays[2][index], one.obs["robot_obs"].astype("f4"))
            text = bytes(arrays[3][index].tolist()).rstrip(b"\0").decode()
            assert text == one.instruction
            np.testing.assert_array_equal(arrays[4][index], one.obs["depth_obs"]["depth_static"])

    def test_order_is_the_contracts(self):
        contract = Contract(inputs=("robot_obs", "rgb_gripper"))
        net = Net()
        TensorPolicy(net, contract, "net").act(requests(1, contract))
        assert [a.shape[1:] for a in net.given[0]] == [(15,), (84, 84, 3)]

    def test_only_what_is_read_is_rendered(self):
        assert DEFAULT.requirements == Requirements(rgb=("static", "gripper"))
        assert Contract(inputs=("depth_static", "robot_obs")).requirements == Requirements(
            depth=("static",)
        )

    @pytest.mark.parametrize(
        "image", [np.zeros((128, 128, 3), np.uint8), np.zeros((200, 200, 3), np.float32)]
    )
    def test_other_images_are_refused(self, image):
        (one,) = requests(1)
        one.obs["rgb_obs"]["rgb_static"] = image
        with pytest.raises(PolicyError, match="rgb_static as uint8"):
            TensorPolicy(Net(), DEFAULT, "net").act([one])

    @pytest.mark.slow
    @given(st.text(max_size=64).filter(lambda text: "\0" not in text))
    def test_instruction_round_trip(self, text):
        encoded = encode_instruction(text)
        assert encoded.shape == (256,)
        assert bytes(encoded.tolist()).rstrip(b"\0").decode() == text

    def test_long_instructions_are_not_cut(self):
        assert encode_instruction("a" * 256)[-1] == ord("a")
        with pytest.raises(PolicyError, match="257 bytes"):
            encode_instruction("a" * 257)


class TestOutputs:
    @pytest.mark.parametrize(
        ("value", "expected"), [(0.01, 1), (5.0, 1), (0.0, -1), (-0.0, -1), (-3.0, -1)]
    )
    def test_sign_gripper(self, value, expected):
        chunks = TensorPolicy(Net(gripper=value), PROPRIO, "net").act(requests(2, PROPRIO))
        assert [chunk[0, 6] for chunk in chunks] == [expected] * 2

    def test_exact_gripper(self):
        contract = dataclasses.replace(PROPRIO, gripper="exact")
        asked = requests(1, contract)
        assert TensorPolicy(Net(gripper=-1), contract, "net").act(asked)[0][0, 6] == -1
        with pytest.raises(PolicyError, match=r'chain 0, subtask 0.*"exact" promises'):
            TensorPolicy(Net(gripper=0.3), contract, "net").act(asked)

    @pytest.mark.parametrize("chunk", [None, 1, 5])
    @pytest.mark.parametrize("max_batch", [None, 1, 2])
    def test_contract(self, chunk, max_batch):
        contract = dataclasses.replace(PROPRIO, max_batch=max_batch)
        policy = TensorPolicy(Net(chunk), contract, "net")
        assert [c.shape for c in policy.act(requests(3, contract))] == [(chunk or 1, 7)] * 3
        check_policy(policy)

    @pytest.mark.parametrize(("max_batch", "sizes"), [(None, [5]), (2, [2, 2, 1]), (1, [1] * 5)])
    def test_batches_keep_the_order(self, max_batch, sizes):
        contract = dataclasses.replace(PROPRIO, max_batch=max_batch)
        net = Net()
        chunks = TensorPolicy(net, contract, "net").act(requests(5, contract))
        assert [len(arrays[0]) for arrays in net.given] == sizes
        for chunk, one in zip(chunks, requests(5, contract), strict=True):
            expected = np.tanh(one.obs["robot_obs"][:6].astype("f4"))
            np.testing.assert_array_equal(chunk[0, :6], expected)

    def test_no_requests_no_forward(self):
        net = Net()
        assert TensorPolicy(net, PROPRIO, "net").act([]) == []
        assert net.given == []

    def test_non_finite_output_names_the_chain(self):
        def net(arrays):
            out = np.ones((len(arrays[0]), 7), np.float32)
            out[1, 3] = np.inf
            return out

        with pytest.raises(PolicyError, match=r"net on chain 1, subtask 0, step 0.*finite"):
            TensorPolicy(net, PROPRIO, "net").act(requests(3, PROPRIO))

    @pytest.mark.parametrize(
        "output",
        [
            np.zeros((3, 6)),
            np.zeros((2, 7)),
            np.zeros((3, 0, 7)),
            np.zeros(7),
            np.zeros((3, 1, 1, 7)),
            np.zeros((3, 7), int),
        ],
    )
    def test_misshaped_output_is_explained(self, output):
        with pytest.raises(PolicyError, match=r"chain 0: expected floating-point .* \(3, 7\)"):
            TensorPolicy(lambda arrays: output, PROPRIO, "net").act(requests(3, PROPRIO))

    def test_failing_network_names_the_chains(self):
        def net(arrays):
            raise RuntimeError(
                "The above operation failed\nTraceback\nRuntimeError: no such axis\n"
            )

        with pytest.raises(
            PolicyError, match=r"net failed on chain 0, 1: RuntimeError: no such axis"
        ):
            TensorPolicy(net, PROPRIO, "net").act(requests(2, PROPRIO))

    @pytest.mark.slow
    @given(
        output=st.lists(st.floats(width=32), min_size=14, max_size=14),
        gripper=st.sampled_from(["sign", "exact"]),
    )
    def test_any_output_becomes_valid_actions_or_a_policy_error(self, output, gripper):
        contract = dataclasses.replace(PROPRIO, gripper=gripper)
        array = np.array(output, np.float32).reshape(2, 7)
        try:
            chunks = TensorPolicy(lambda arrays: array, contract, "n").act(requests(2, contract))
        except PolicyError:
            valid = gripper == "sign" or np.isin(array[:, 6], (-1, 1)).all()
            assert not (np.isfinite(array).all() and valid)
            return
        np.testing.assert_array_equal(np.concatenate(chunks)[:, :6], array[:, :6])
        assert np.isin(np.concatenate(chunks)[:, 6], (-1, 1)).all()


class TestDeclaration:
    def test_defaults(self):
        assert parse_contract({}, "x") == DEFAULT
        assert DEFAULT.inputs == ("rgb_static", "rgb_gripper", "robot_obs", "instruction")

    @pytest.mark.parametrize(
        ("declared", "error", "message"),
        [
            ({"grippers": "sign"}, UnknownNameError, "Did you mean 'gripper'"),
            ({"gripper": "exakt"}, UnknownNameError, "Did you mean 'exact'"),
            ({"inputs": ["rgb_statik"]}, UnknownNameError, "Did you mean 'rgb_static'"),
            ({"inputs": ["scene_obs"]}, UnknownNameError, "input in x"),
            ({"inputs": [["rgb_static"]]}, UnknownNameError, "input in x"),
            ({"inputs": []}, CheckpointError, "inputs to be a list"),
            ({"inputs": "rgb_static"}, CheckpointError, "inputs to be a list"),
            ({"inputs": ["robot_obs", "robot_obs"]}, CheckpointError, "every input once"),
            ({"version": 2}, CheckpointError, "version 1 of the tensor contract, found 2"),
            ({"version": True}, CheckpointError, "version 1"),
            ({"max_batch": 0}, CheckpointError, "max_batch >= 1"),
            ({"max_batch": "4"}, CheckpointError, "max_batch >= 1"),
        ],
    )
    def test_mistakes_are_explained(self, declared, error, message):
        with pytest.raises(error, match=message):
            parse_contract(declared, "x")

    @pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b"null", b"[" * 100_000])
    def test_broken_metadata_is_explained(self, text):
        with pytest.raises(CheckpointError, match="x: expected"):
            read_metadata(text, "x")

    json = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )

    @pytest.mark.slow
    @given(
        st.dictionaries(
            st.sampled_from(["version", "inputs", "gripper", "max_batch"]) | st.text(), json
        )
    )
    def test_any_declaration_is_a_contract_or_an_error_of_ours(self, declared):
        try:
            contract = parse_contract(declared, "x")
        except CalvinEvalError:
            return
        assert set(declared) <= {field.name for field in dataclasses.fields(Contract)}
        assert all(name in INPUTS for name in contract.inputs)


class TestProbe:
    def test_batching_networks_keep_their_contract(self):
        found = probe(Net(4), DEFAULT, "net")
        assert found.contract == DEFAULT
        assert found.actions == 4

    def test_networks_of_batch_one_get_one_at_a_time(self):
        def fixed(arrays):
            if len(arrays[0]) != 1:
                raise RuntimeError("expected a batch of 1")
            return np.zeros((1, 7), np.float32)

        assert probe(fixed, PROPRIO, "net").contract.max_batch == 1

    def test_networks_that_mix_requests_get_one_at_a_time(self):
        def mixing(arrays):
            return Net()(arrays) + np.float32(arrays[0][:, :1].mean() + len(arrays[0]))

        assert probe(mixing, PROPRIO, "net").contract.max_batch == 1

    def test_failures_are_explained(self):
        with pytest.raises(CheckpointError, match=r"breaks the tensor contract.*\(1, 6\)"):
            probe(lambda arrays: np.zeros((1, 6)), PROPRIO, "net")
        with pytest.raises(CheckpointError, match=r"net fails on inputs.*'nope'"):
            probe(lambda arrays: {}["nope"], PROPRIO, "net")
