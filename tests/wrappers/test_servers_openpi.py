"""openpi's protocol: what is sent, what is accepted, and what comes of a server's faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ports import reserved_port
from waiting import LIMIT, wait_until
from wire_servers import OpenpiServer, WireServer, cut, pack, unpack

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import LoadedPolicy, resolve
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.servers import connection, dialect, recognise
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.processes

# Patient with a busy machine; a test in which nobody answers says how long it waits for that.
PATIENT: dict[str, Any] = {
    "protocol": "openpi",
    "timeout": LIMIT,
    "first_timeout": LIMIT,
    "connect_timeout": LIMIT,
    "retries": 2,
    "backoff": 0.02,
}
CHUNK = np.linspace(-1, 1, 70, dtype=np.float32).reshape(10, 7)


def chunk(obs: dict[str, Any]) -> dict[str, Any]:
    return {"actions": CHUNK, "state": obs.get("observation/state")}


def connect(server: WireServer, **options: Any) -> LoadedPolicy:
    return resolve(server.address, options={**PATIENT, **options})


def ask(
    loaded: LoadedPolicy, *sessions: int, position: int = 0, step: int = 0, attempt: int = 0
) -> Any:
    requests = [
        fake_request(loaded.policy.requirements, session, position, step)
        for session in sessions or (0,)
    ]
    return loaded.policy.act([replace(request, attempt=attempt) for request in requests])


def report(loaded: LoadedPolicy) -> dict[str, Any]:
    found: dict[str, Any] = dict(loaded.policy.report() or {})
    return found


def test_what_a_libero_configuration_is_sent() -> None:
    with OpenpiServer(chunk) as server:
        loaded = connect(server)
        request = fake_request(loaded.policy.requirements)
        loaded.policy.act([request])
    sent = server.requests[0]
    assert set(sent) == {
        "observation/image", "observation/wrist_image", "observation/state", "prompt"
    }  # fmt: skip
    assert sent["observation/image"].shape == sent["observation/wrist_image"].shape == (224, 224, 3)
    assert sent["observation/image"].dtype == np.uint8
    expected = np.r_[request.obs["robot_obs"][:7], request.obs["robot_obs"][14]]
    np.testing.assert_array_equal(sent["observation/state"], expected.astype(np.float32))
    assert sent["prompt"] == request.instruction


def test_keys_sizes_and_state_are_configuration() -> None:
    keys = {"static": "image", "gripper": None, "state": "state"}
    with OpenpiServer(chunk) as server:
        loaded = resolve(
            server.address,
            options={**PATIENT, "keys": keys},
            observe={"images": None, "proprioception": {"fields": "all"}},
        )
        ask(loaded)
    assert loaded.policy.requirements.rgb == ("static",)
    assert {k: np.shape(v) for k, v in server.requests[0].items()} == {
        "image": (200, 200, 3), "state": (15,), "prompt": ()
    }  # fmt: skip


def test_a_window_of_executed_actions_is_sent_where_it_has_a_key() -> None:
    keys = {"actions": "observation/actions"}
    window = {"history": {"length": 4, "pad": "zeros", "keys": ["actions"]}}
    with OpenpiServer(chunk) as server:
        loaded = resolve(server.address, options={**PATIENT, "keys": keys}, observe=window)
        ask(loaded, step=2)
        bare = resolve(server.address, options={**PATIENT, "keys": keys})
        with pytest.raises(PolicyError, match=r"policy\.observe\.history\.keys=\[actions\]"):
            ask(bare)
    done = fake_request(loaded.policy.requirements, step=2).executed
    expected = [np.zeros(7), np.zeros(7), *(one.sent for one in done)]
    np.testing.assert_array_equal(server.requests[0]["observation/actions"], expected)
    assert loaded.metadata["keys"]["actions"] == "observation/actions"
    with OpenpiServer(chunk) as server:
        assert "actions" not in connect(server).metadata["keys"]


def test_a_state_that_no_stage_makes_is_asked_for() -> None:
    with OpenpiServer(chunk) as server:
        loaded = resolve(server.address, options=PATIENT, observe={"proprioception": None})
        with pytest.raises(PolicyError, match=r"policy\.options\.keys\.state=null"):
            ask(loaded)
    assert not server.requests


def test_a_chunk_is_returned_whole_with_the_gripper_as_a_command() -> None:
    with OpenpiServer(chunk) as server:
        loaded = connect(server)
        (actions,) = ask(loaded)
        check_policy(loaded.policy)
    np.testing.assert_array_equal(actions[:, :6], CHUNK[:, :6])
    assert actions[:, 6].tolist() == [1.0 if value > 0 else -1.0 for value in CHUNK[:, 6]]


def test_metadata_and_stages_are_stored_and_the_key_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_KEY", "s3cret")
    metadata = {"reset_pose": np.array([0.5, 1]), "name": "pi0", "n": np.int64(3)}
    with OpenpiServer(chunk, metadata) as server:
        loaded = connect(server, token_env="POLICY_KEY")
        ask(loaded)
        assert {headers["Authorization"] for headers in server.headers} == {"Api-Key s3cret"}
    stored = json.dumps(loaded.metadata, allow_nan=False)
    assert loaded.metadata["server"] == {"reset_pose": [0.5, 1.0], "name": "pi0", "n": 3}
    assert loaded.metadata["protocol"] == "openpi"
    assert loaded.metadata["stages"]["observe"]["images"]["size"] == 224
    assert "s3cret" not in stored + loaded.description


def test_auto_recognises_the_one_who_speaks_first() -> None:
    with OpenpiServer(chunk) as server:
        loaded = connect(server, protocol="auto")
        assert loaded.metadata["protocol"] == "openpi"
        assert ask(loaded)[0].shape == (10, 7)


def test_auto_recognises_a_server_that_is_slow_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "_SILENCE", 0.05)
    given_up = threading.Event()

    def converse(connection: Any) -> None:
        if not given_up.is_set():  # a busy machine: the client does not wait until this comes
            given_up.set()
            connection.recv()
        connection.send(pack({"name": "pi0"}))
        for message in connection:
            unpack(message)
            connection.send(pack(chunk({})))

    with WireServer(converse) as server:
        loaded = connect(server, protocol="auto")
        assert loaded.metadata["protocol"] == "openpi"
        assert ask(loaded)[0].shape == (10, 7)


def test_sessions_share_a_connection_and_requests_go_out_side_by_side() -> None:
    together = threading.Barrier(3, timeout=LIMIT)

    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.full((1, 7), len(obs["prompt"]), np.float32)}

    with OpenpiServer(infer) as server:
        loaded = connect(server)
        before = len(server.connections)
        for step in range(3):
            assert len(ask(loaded, 0, 1, 2, 3, step=step)) == 4
        assert len(server.connections) == before + 1

    def converse(connection: Any) -> None:
        connection.send(pack({}))
        for _ in connection:
            together.wait()  # until three requests are under way
            connection.send(pack(chunk({})))

    with WireServer(converse) as side_by_side:
        loaded = connect(side_by_side, connections=3)
        assert len(ask(loaded, 0, 1, 2)) == 3
        assert report(loaded)["connections"] == 3


def test_latency_is_reported() -> None:
    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return chunk(obs)

    with OpenpiServer(infer) as server:
        loaded = connect(server)
        for step in range(5):
            ask(loaded, step=step)
    found = report(loaded)
    assert (found["calls"], found["connections"], found["reconnects"]) == (5, 1, 0)
    assert 20 <= found["server_infer_ms"]["median"] <= found["round_trip_ms"]["median"]
    assert found["round_trip_ms"]["p95"] <= found["round_trip_ms"]["max"]
    json.dumps(found)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that connections wait before they try again; they do not really wait."""
    found: list[float] = []
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=found.append))
    return found


def test_a_server_that_was_started_anew_is_found_again() -> None:
    with reserved_port() as port:
        with OpenpiServer(chunk, {"name": "pi0"}, port) as first:
            loaded = connect(first)
            ask(loaded)
        with OpenpiServer(chunk, {"name": "pi0"}, port) as second:
            assert ask(loaded, step=1)[0].shape == (10, 7)
            assert len(second.requests) == 1
    assert report(loaded)["reconnects"] == 1


def test_a_server_that_is_started_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[OpenpiServer] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            started.append(OpenpiServer(chunk, port=port))

    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=pause))
    with reserved_port() as port:
        try:
            loaded = resolve(f"ws://127.0.0.1:{port}", options={**PATIENT, "retries": 8})
            assert ask(loaded)[0].shape == (10, 7)
        finally:
            for server in started:
                server.stop()
    assert pauses == [0.02, 0.04, 0.08]


def test_another_policy_in_the_middle_of_a_run_is_refused() -> None:
    with reserved_port() as port:
        with OpenpiServer(chunk, {"name": "pi0", "step": 1}, port) as first:
            loaded = connect(first)
            ask(loaded)
        with (
            OpenpiServer(chunk, {"name": "pi0", "step": 2}, port),
            pytest.raises(PolicyError, match=r"another policy .* in step"),
        ):
            ask(loaded, step=1)


def test_a_server_that_is_gone_is_an_error_after_the_retries(pauses: list[float]) -> None:
    with reserved_port() as port:
        with OpenpiServer(chunk, port=port) as server:
            loaded = connect(server)
            ask(loaded)
        assert pauses == []
        with pytest.raises(PolicyError, match=r"nobody answers|connection broke"):
            ask(loaded, step=1)
        assert pauses == [0.02, 0.04]
        with pytest.raises(CheckpointError, match="nobody answers there"):
            connect(server)


def dies(when: str) -> Callable[[Any], None]:
    """A conversation that breaks off once, on the first request of all."""
    seen = threading.Event()

    def converse(connection: Any) -> None:
        connection.send(pack({}))
        for message in connection:
            if not seen.is_set():
                seen.set()
                if when == "in the middle of a reply":
                    connection.socket.sendall(b"\x82\x7e\x10\x00abc")  # 3 bytes of 4096
                elif when == "with a goodbye":
                    connection.close(1012)
                cut(connection)
                return
            connection.send(pack(chunk(unpack(message))))

    return converse


@pytest.mark.parametrize("when", ["before a reply", "in the middle of a reply", "with a goodbye"])
def test_a_connection_that_breaks_is_renewed_and_the_request_repeated(when: str) -> None:
    with WireServer(dies(when)) as server:
        loaded = connect(server)
        assert ask(loaded)[0].shape == (10, 7)
    assert report(loaded)["reconnects"] == 1


def test_a_traceback_is_evidence_and_is_not_asked_for_twice() -> None:
    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        if len(server.requests) == 1:
            raise ValueError("out of memory on the GPU")
        return chunk(obs)

    with OpenpiServer(infer) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match="out of memory on the GPU"):
            ask(loaded)
        assert len(server.requests) == 1
        assert ask(loaded, step=1)[0].shape == (10, 7)  # on a new connection
    assert (report(loaded)["errors"], report(loaded)["reconnects"]) == (1, 1)


def test_a_slow_server_is_an_error_and_its_late_reply_is_not_taken_for_another() -> None:
    limit, given_up = 0.2, threading.Event()

    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        number = len(server.requests)
        if number == 1:
            time.sleep(2 * limit)
        if number == 2:
            given_up.wait(LIMIT)
        return {"actions": np.full((1, 7), number, np.float32)}

    with OpenpiServer(infer) as server:
        loaded = connect(server, timeout=limit)
        assert ask(loaded)[0][0, 0] == 1  # the first answer may take longer
        with pytest.raises(PolicyError, match=r"no answer within 0\.2 s.*timeout"):
            ask(loaded, step=1)
        wait_until(lambda: len(server.requests) == 2, "the request that nobody waits for is read")
        given_up.set()
        assert ask(loaded, step=2)[0][0, 0] == 3
    assert report(loaded)["timeouts"] == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"\xc1garbage", "msgpack"),
        (pack([1, 2]), "a map"),
        (pack({"action": CHUNK}), "found the keys action"),
        (pack({}), r"found the keys \(none\)"),
        (pack({"actions": np.full((2, 7), np.nan)}), "finite"),
        (pack({"actions": np.full((1, 7), np.inf, np.float32)}), "finite"),
        (pack({"actions": np.zeros((2, 3, 7))}), r"shape \(2, 3, 7\)"),
        (pack({"actions": np.zeros((0, 7))}), r"shape \(0, 7\)"),
        (pack({"actions": "left"}), "numbers"),
        (pack({"actions": [[1, 2], [3]]}), "numbers"),
        (pack({"actions": None}), "numbers"),
        (pack({"actions": {b"__ndarray__": True, b"data": bytes(4), b"dtype": "<f4",
                           b"shape": [7]}}), "found 4"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(reply: bytes, message: str) -> None:
    with OpenpiServer(lambda obs: reply) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match=message):
            ask(loaded)
        assert len(server.requests) == 1


def test_actions_of_another_width_meet_the_stages() -> None:
    with OpenpiServer(lambda obs: {"actions": np.zeros((5, 32), np.float32)}) as server:
        loaded = resolve(server.address, options=PATIENT, actions={"columns": {"take": range(7)}})
        assert ask(loaded)[0].shape == (5, 7)


def test_a_message_beyond_the_limit_is_refused() -> None:
    with OpenpiServer(lambda obs: {"actions": np.zeros((1000, 7))}) as server:
        loaded = connect(server, max_size=10_000)
        with pytest.raises(PolicyError, match=r"more than 10000 bytes.*max_size"):
            ask(loaded)
        assert len(server.requests) == 1


def test_one_failing_session_leaves_the_others_their_answers() -> None:
    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        # The instruction is the same for all, the state is not.
        bad = np.isclose(obs["observation/state"][0], state[0], atol=1e-7)
        return {"actions": np.full((1, 7), np.nan if bad else 0.5)}

    with OpenpiServer(infer) as server:
        loaded = connect(server)
        state = fake_request(loaded.policy.requirements, 1).obs["robot_obs"].astype(np.float32)
        with pytest.raises(PolicyError, match="finite"):
            ask(loaded, 0, 1, 2)
        assert ask(loaded, 0, attempt=1)[0][0, 0] == 0.5
        with pytest.raises(PolicyError, match="finite"):
            ask(loaded, 1, attempt=1)
        assert ask(loaded, 2, attempt=1)[0][0, 0] == 0.5
        assert len(server.requests) == 3  # nobody was asked twice
        loaded.policy.reset(1, "again")
        with pytest.raises(PolicyError, match="finite"):
            ask(loaded, 1)
        assert len(server.requests) == 4


def test_who_speaks_another_protocol_is_not_taken_for_a_policy() -> None:
    def silent(connection: Any) -> None:
        connection.recv()

    def chatty(connection: Any) -> None:
        connection.send("hello there")

    with WireServer(silent) as server, pytest.raises(CheckpointError, match="no answer within"):
        connect(server, first_timeout=0.2)
    with WireServer(chatty) as server, pytest.raises(CheckpointError, match="hello there"):
        connect(server, protocol="auto")
    with (
        WireServer(lambda connection: connection.send(b"\x93\x01\x02\x03")) as server,
        pytest.raises(CheckpointError, match=r"metadata.*a map"),
    ):
        connect(server)
    with (
        WireServer(lambda connection: connection.close()) as server,
        pytest.raises(CheckpointError, match="before the server said anything"),
    ):
        connect(server)


@pytest.mark.parametrize("address", ["ws://", "ws://host:port", "ftp://x", "ws://:8000"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(CheckpointError, match="expected ws://HOST:PORT"):
        resolve(address)


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(CheckpointError, match="environment variable") as caught:
        resolve("ws://me:s3cret@host:1")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"timeuot": 3}, UnknownNameError, "timeout"),
        ({"timeout": 0}, UsageError, "timeout"),
        ({"timeout": "fast"}, UsageError, "timeout"),
        ({"retries": 1.5}, UsageError, "retries"),
        ({"retries": True}, UsageError, "retries"),
        ({"connections": 0}, UsageError, "connections"),
        ({"token_env": 3}, UsageError, "token_env"),
        ({"protocol": "openvla"}, UnknownNameError, "vla_eval, starvla, auto"),
        ({"protocol": "openpi", "cameras": ["static"]}, UnknownNameError, "cameras"),
    ],
)
def test_options_that_cannot_be_meant(options: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        resolve("ws://127.0.0.1:9", options=options)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [("image", UsageError), ({"statik": "x"}, UnknownNameError), ({"static": 3}, UsageError)],
)
def test_keys_that_cannot_be_meant(keys: Any, kind: Any) -> None:
    with OpenpiServer(chunk) as server, pytest.raises(kind, match="keys"):
        connect(server, keys=keys)


def test_an_answer_that_comes_twice_is_not_taken_for_the_next() -> None:
    """Each answer says which request it is for, and none was used for another."""
    count = iter(range(100))

    def talk(line: Any) -> None:
        line.send(pack({}))
        for _ in line:
            number = next(count)
            for _ in range(2 if number == 1 else 1):
                line.send(pack({"actions": np.full((1, 7), number / 10, np.float32)}))

    with WireServer(talk) as server:
        loaded = connect(server)
        seen = [ask(loaded)[0][0, 0], ask(loaded, step=1)[0][0, 0]]
        held = loaded.policy.policy._free.queue[-1]  # type: ignore[attr-defined]
        wait_until(lambda: not held._socket.recv_messages.frames.empty(), "the second answer")
        with pytest.raises(PolicyError, match="nobody asked for"):
            ask(loaded, step=2)
    assert [round(float(value), 1) for value in seen] == [0.0, 0.1]


def surplus(loaded: Any) -> None:
    """Wait until a message that nobody asked for has arrived."""
    held = loaded.policy.policy._free.queue[-1]
    wait_until(lambda: not held._socket.recv_messages.frames.empty(), "a surplus answer")


def doubling(line: Any) -> None:
    """Answers the second request twice, and from then on each with the answer to the one before."""
    line.send(pack({}))
    late = False
    for number, _ in enumerate(line):
        value = number - 1 if late else number
        for _ in range(2 if number == 1 else 1):
            line.send(pack({"actions": np.full((1, 7), value / 10, np.float32)}))


def test_whoever_was_answered_on_such_a_connection_is_in_doubt_until_it_ends() -> None:
    with WireServer(doubling) as server:
        loaded = connect(server)
        policy = loaded.policy
        policy.reset(1, "x")
        ask(loaded)
        ask(loaded, 1)
        surplus(loaded)
        with pytest.raises(PolicyError, match="nobody asked for"):
            ask(loaded, step=1)
        with pytest.raises(PolicyError, match="what this chain executed proves nothing"):
            ask(loaded, 1, step=1)
        for session in (0, 1):
            with pytest.raises(PolicyError, match="proves nothing"):
                policy.end(session)
        policy.reset(1, "x")
        ask(loaded, 1)  # on a new connection
        policy.end(1)


def test_an_answer_that_is_left_over_at_a_chains_end_is_an_error_of_the_chain() -> None:
    """The last second answer meets no request that would find it waiting."""
    with WireServer(doubling) as server:
        loaded = connect(server)
        ask(loaded)
        ask(loaded, step=1)
        surplus(loaded)
        with pytest.raises(PolicyError, match="proves nothing"):
            loaded.policy.end(0)


def test_an_answer_that_was_inferred_before_its_request_came_is_to_another() -> None:
    def infer(obs: Any) -> Any:
        return {"actions": np.zeros((1, 7), np.float32)}

    def talk(line: Any) -> None:
        line.send(pack({}))
        for number, message in enumerate(line):
            timing = {"infer_ms": 60_000.0 if number == 1 else 0.0}
            line.send(pack({**infer(message), "server_timing": timing}))

    with WireServer(talk) as server:
        loaded = connect(server)
        ask(loaded)
        with pytest.raises(PolicyError, match=r"60000\.0 ms to infer: expected the answer to this"):
            ask(loaded, step=1)


def test_our_own_server_answers_with_the_number_of_the_request() -> None:
    def talk(line: Any) -> None:
        needs = {"rgb": [], "depth": [], "sizes": {}, "every_step": False, "privileged": False}
        said = {"version": dialect.VERSION, "policy": "p", "requirements": needs}
        line.send(pack({"calvin_eval": {**said, "max_sessions": None}}))
        for message in line:
            number = unpack(message)[dialect.SERIAL]
            shift = 1 if number == 1 else 0
            reply = {"actions": np.zeros((1, 7), np.float32), dialect.SERIAL: number - shift}
            line.send(pack(reply))

    with WireServer(talk) as server:
        loaded = resolve(server.address, options=PATIENT)
        loaded.policy.reset(0, "x")
        ask(loaded)
        with pytest.raises(PolicyError, match=r"answer to request 1, found that to 0"):
            ask(loaded, step=1)


@pytest.mark.parametrize("size", [(100_000, 100_000), (0, 10), (4097, 10)])
def test_images_that_no_camera_draws_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CheckpointError, match="1 to 4096 pixels"):
        Requirements(rgb=("static",), sizes={"static": size})


def test_a_state_in_parts_under_several_keys() -> None:
    state = {"obs/pos": [0, 1, 2], "obs/rot": "3:6", "obs/gripper": 6, "obs/all": list(range(8))}
    with OpenpiServer(chunk) as server:
        loaded = connect(server, keys={"state": state})
        request = fake_request(loaded.policy.requirements)
        loaded.policy.act([request])
    sent, robot = server.requests[0], request.obs["robot_obs"].astype(np.float32)
    assert "observation/state" not in sent
    np.testing.assert_array_equal(sent["obs/pos"], robot[:3])
    np.testing.assert_array_equal(sent["obs/rot"], robot[3:6])
    np.testing.assert_array_equal(sent["obs/gripper"], robot[6:7])
    np.testing.assert_array_equal(sent["obs/all"], np.r_[robot[:7], robot[14]])
    keys = json.loads(json.dumps(loaded.metadata["keys"]))
    assert keys["state"]["obs/rot"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected keys in policy.options.keys.state"),
        ({"a": []}, "to be indices of the state"),
        ({"a": [-1]}, "to be indices of the state"),
        ({"a": "x"}, "to be indices of the state"),
        ({"a": True}, "to be indices of the state"),
        ([0, 1], "to be text or null or a map of keys to indices"),
    ],
)
def test_parts_of_a_state_that_cannot_be_meant(state: object, message: str) -> None:
    with OpenpiServer(chunk) as server, pytest.raises(UsageError, match=message):
        connect(server, keys={"state": state})


def test_a_part_behind_the_end_of_the_state() -> None:
    with OpenpiServer(chunk) as server:
        loaded = connect(server, keys={"state": {"a": [8]}})
        with pytest.raises(PolicyError, match="number 8 of the state, which has 8"):
            ask(loaded)


@pytest.mark.parametrize(
    "reply", [{"error": "out of memory"}, {"error": {"message": "out of memory"}, "ok": False}]
)
def test_what_a_server_says_instead_of_actions_is_shown(reply: dict[str, Any]) -> None:
    with OpenpiServer(lambda obs: reply) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match="the server says: out of memory"):
            ask(loaded)
