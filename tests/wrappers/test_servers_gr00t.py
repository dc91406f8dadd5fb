"""GR00T's protocol over ZeroMQ: what is sent, what is accepted, and what comes of faults."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
from ports import reserved_port
from requirements import need_package
from waiting import LIMIT

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import LoadedPolicy, declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.servers.gr00t import Gr00tPolicy
from calvin_eval.wrappers.servers.keys import Keys
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.testing import check_policy, fake_request

zmq = need_package("zmq", "the extra zmq")

pytestmark = pytest.mark.processes

PATIENT: dict[str, Any] = {
    "timeout": LIMIT, "first_timeout": LIMIT, "connect_timeout": LIMIT, "retries": 0,
}  # fmt: skip
AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ROWS = np.random.default_rng(0).uniform(-1, 1, (16, 7)).astype(np.float32)


# GR00T's form of arrays, written down from its description and not with our codec.


def encode(value: Any) -> Any:
    file = io.BytesIO()
    np.save(file, value)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(found: Any) -> Any:
    if "__ndarray_class__" in found:
        return np.load(io.BytesIO(found["as_npy"]))
    return found


def newer(request: dict[str, Any]) -> Any:
    """The answer of version 1.6."""
    return [{axis: ROWS[None, :, [i]] for i, axis in enumerate(AXES)}, {}]


def older(request: dict[str, Any]) -> Any:
    """The answer of version 1.5, which drops axes of length 1."""
    return {f"action.{axis}": ROWS[:, i] for i, axis in enumerate(AXES)}


class ZmqServer:
    """A server whose every answer to get_action a test decides."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answer = answer
        self._socket = zmq.Context.instance().socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 50)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                request = msgpack.unpackb(self._socket.recv(), object_hook=decode)
            except zmq.Again:
                continue
            reply: Any = {"status": "ok"}
            if request["endpoint"] != "ping":
                self.requests.append(request)
                reply = self._answer(request)
            whole = isinstance(reply, bytes)
            self._socket.send(reply if whole else msgpack.packb(reply, default=encode))
        self._socket.close()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Any] = newer) -> Iterator[ZmqServer]:
    server = ZmqServer(answer)
    try:
        yield server
    finally:
        server.stop()


def connect(server: ZmqServer, **options: Any) -> LoadedPolicy:
    return resolve(server.address, options={**PATIENT, **options})


def ask(loaded: LoadedPolicy) -> Any:
    return loaded.policy.act([fake_request(loaded.policy.requirements)])[0]


def check_actions(found: Any) -> None:
    rows = np.array(found)
    np.testing.assert_allclose(rows[:, :6], ROWS[:, :6], atol=1e-6)
    np.testing.assert_array_equal(rows[:, 6], np.where(ROWS[:, 6] > 0, 1, -1))


def test_what_version_1_6_is_sent() -> None:
    with serving() as server:
        loaded = connect(server)
        request = fake_request(loaded.policy.requirements)
        (found,) = loaded.policy.act([request])
        check_policy(loaded.policy)
    assert "GR00T protocol 1.6" in loaded.description
    sent = server.requests[0]
    assert (sent["endpoint"], sent["data"]["options"]) == ("get_action", None)
    observation = sent["data"]["observation"]
    assert set(observation) == {"video", "state", "language"}
    rgb = request.obs["rgb_obs"]
    np.testing.assert_array_equal(observation["video"]["image"], rgb["rgb_static"][None, None])
    np.testing.assert_array_equal(
        observation["video"]["wrist_image"], rgb["rgb_gripper"][None, None]
    )
    assert observation["language"] == {
        "annotation.human.action.task_description": [[request.instruction]]
    }
    for index, axis in enumerate(AXES):
        part = observation["state"][axis]
        assert (part.shape, part.dtype) == ((1, 1, 1), np.float32)
        assert part[0, 0, 0] == np.float32(request.obs["robot_obs"][index])
    check_actions(found)


def test_what_version_1_5_is_sent() -> None:
    with serving(older) as server:
        loaded = connect(server, version="1.5")
        check_actions(ask(loaded))
    sent = server.requests[0]["data"]
    assert sent["video.image"].shape == (1, 200, 200, 3)
    assert sent["state.x"].shape == (1, 1)
    assert isinstance(sent["annotation.human.action.task_description"][0], str)


def test_other_names_and_one_camera() -> None:
    def answer(request: dict[str, Any]) -> Any:
        return [{"arm": ROWS[None, :, :6], "hand": ROWS[None, :, 6:]}, {}]

    keys = {"static": "video.front", "gripper": None, "state": {"state.all": "0:7"}}
    with serving(answer) as server:
        loaded = connect(server, keys=keys, actions=["action.arm", "action.hand"])
        check_actions(ask(loaded))
    assert loaded.policy.requirements.rgb == ("static",)
    observation = server.requests[0]["data"]["observation"]
    assert set(observation["video"]) == {"front"}
    assert observation["state"]["all"].shape == (1, 1, 7)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALVIN_EVAL_TOKEN", "abc")
    with serving() as server:
        loaded = connect(server)
        ask(loaded)
    assert server.requests[0]["api_token"] == "abc"
    assert "abc" not in str(loaded.metadata)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"error": "CUDA out of memory"}, "the server failed: CUDA out of memory"),
        (b"ERROR", "the server failed, and says no more"),
        (b"\xc1", "expected a msgpack message"),
        ([{"x": ROWS[None]}, {}], "expected y, found the keys x: set policy.options.actions"),
        ([{axis: np.full((1, 4, 1), np.nan) for axis in AXES}, {}], "finite"),
        ([{axis: np.zeros((1, 3 + (axis == "x"), 1)) for axis in AXES}, {}], "different lengths"),
        (5, "expected a map"),
        ({"__ndarray_class__": True}, "an array without its content"),
        ({"__ndarray_class__": True, "as_npy": b"\x80\x04K\x01."}, "no NumPy array"),
    ],
)
def test_faults_have_the_servers_words(reply: Any, message: str) -> None:
    with serving(lambda request: reply) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match=message):
            ask(loaded)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    held = threading.Event()

    def late(request: dict[str, Any]) -> Any:
        if not held.is_set():
            held.wait(LIMIT)
            return [{axis: np.full((1, 2, 1), 0.25) for axis in AXES}, {}]
        return newer(request)

    with serving(late) as server:
        policy = Gr00tPolicy(
            server.address,
            LinkOptions(first_timeout=0.5),
            keys=Keys(static="video.image", gripper=None, state=None, prompt="text"),
            actions=tuple(f"action.{axis}" for axis in AXES),
            version="1.6",
        )
        request = fake_request(policy.requirements)
        with pytest.raises(PolicyError, match=r"no answer within 0\.5 s"):
            policy.act([request])
        held.set()
        policy._options = LinkOptions(first_timeout=LIMIT)
        np.testing.assert_array_equal(policy.act([request])[0], ROWS)


def test_nobody_there() -> None:
    with reserved_port() as port, pytest.raises(CheckpointError, match="nobody answers there"):
        resolve(f"tcp://127.0.0.1:{port}", options={**PATIENT, "connect_timeout": 0.2})


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"version": "2"}, UnknownNameError, "1.6, 1.5"),
        ({"actions": []}, UsageError, "policy.options.actions"),
        ({"actions": "x"}, UsageError, "policy.options.actions"),
        ({"keys": {"stat": "x"}}, UnknownNameError, "static"),
        ({"protocol": "openpi"}, UnknownNameError, "expected one of gr00t"),
    ],
)
def test_what_cannot_be_meant(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        resolve("tcp://127.0.0.1:1", options=options)


def test_the_preset_declares_what_the_protocol_does() -> None:
    found = declared(Source(ckpt="tcp://a:1", options={}))
    policy = compose_config(["policy=gr00t"], {"ckpt": "tcp://a:1"}).policy
    assert found == (policy.observe, policy.actions)
