"""`calvin-eval serve`, and runs against servers: from the command line, in real processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import LIMIT, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client
from wire_servers import OpenpiServer, pack, unpack

from calvin_eval.cli.main import main
from calvin_eval.errors import CheckpointError, PolicyError
from calvin_eval.results.journal import read_journal
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.running import sessions
from calvin_eval.running.serving import PolicyServer, ServeRules
from calvin_eval.running.sessions import SessionTable
from calvin_eval.wrappers.loaders import LoadedPolicy, resolve
from calvin_eval.wrappers.policy import Policy, Requirements, with_defaults
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.servers.loopback import is_loopback
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.processes

connect = functools.partial(client.connect, open_timeout=LIMIT, ping_interval=None)

POLICY = '''
from dataclasses import replace

import numpy as np
from calvin_eval.wrappers.policy import Requirements


class Memory:
    """Remembers per session: a lost, mixed up or repeated request shows in its actions."""

    requirements = Requirements(every_step=True)

    def __init__(self):
        self.history = {}

    def reset(self, session, instruction):
        self.history[session] = [float(len(instruction))]

    def act(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        history = self.history[request.session]
        seen = [*request.frames, request.obs]
        history.append(sum(float(obs["robot_obs"][0]) for obs in seen) + request.position)
        motion = np.sin(np.outer([1, 2], np.arange(1, 7)) * sum(history)).astype(np.float32)
        return np.column_stack([motion, np.ones(2, np.float32)])


class Custom:
    """Upstream's interface: one chain per instance."""

    requirements = {}

    def reset(self):
        self.t = 0

    def step(self, obs, goal):
        self.t += 1
        return np.array([np.sin(self.t), 0, 0, 0, 0, 0, 1 if "open" in goal else -1])


class Poses(Custom):
    requirements = {}

    def step(self, obs, goal):
        pose = obs["robot_obs"]
        return (pose[:3] + 0.01, pose[3:6].astype(np.float32), 1)


class Spy:
    requirements = Requirements(privileged=True)

    def reset(self, session, instruction): ...

    def act(self, requests): ...


class Surveyor(Spy):
    requirements = Requirements(depth=("static",), matrices=True)


class Broken(Memory):
    requirements = Requirements()

    def one(self, request):
        raise ValueError("no idea what to do")
'''


@pytest.fixture
def policies(tmp_path: Path) -> str:
    path = tmp_path / "policies.py"
    path.write_text(POLICY)
    return str(path)


def served(ckpt: str, **rules: Any) -> contextlib.AbstractContextManager[PolicyServer]:
    """A server in this process."""
    return serving_policy(resolve(ckpt), lambda: resolve(ckpt).policy, **rules)


@contextlib.contextmanager
def serving_policy(
    loaded: LoadedPolicy, make: Callable[[], Policy], **rules: Any
) -> Iterator[PolicyServer]:
    server = PolicyServer(loaded, make=make, rules=ServeRules(**{"port": 0, **rules}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@contextlib.contextmanager
def serving(*arguments: str, cwd: Path, **env: str) -> Iterator[tuple[str, Any]]:
    """`calvin-eval serve` as a process, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "calvin_eval", "serve", "--port", "0", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **env},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        line = process.stdout.readline() if ready else ""
        if "serving at" not in line:
            process.kill()
            raise AssertionError(f"{line}{process.communicate()[1]}")
        yield line.removeprefix("serving at ").partition(";")[0], process
    finally:
        process.kill()
        process.communicate()


def outcomes(folder: Path) -> list[dict[str, Any]]:
    return sorted((r.outcome() for r in read_journal(folder / "chains.jsonl")),
                  key=lambda outcome: outcome["chain"])  # fmt: skip


def actions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "actions").iterdir()}


def run(out: Path, ckpt: str, *arguments: str) -> int:
    return main(["--ckpt", ckpt, "--out", str(out), "--quiet", "protocol.steps=5", *arguments])


@pytest.mark.slow
def test_a_served_policy_gives_the_journal_of_a_local_one(tmp_path: Path, policies: str) -> None:
    for name in ("Memory", "Custom", "Poses"):
        ckpt = f"{policies}:{name}"
        with serving("--ckpt", ckpt, cwd=tmp_path) as (address, _):
            remote = run(tmp_path / f"{name}-there", address, "--num-chains=3", "--workers=2")
        assert run(tmp_path / f"{name}-here", ckpt, "--num-chains=3", "--workers=0") == remote == 0
        assert outcomes(tmp_path / f"{name}-there") == outcomes(tmp_path / f"{name}-here")
        assert actions(tmp_path / f"{name}-there") == actions(tmp_path / f"{name}-here")


@pytest.mark.slow
def test_a_builtin_policy_likewise_with_what_the_run_says_of_it(tmp_path: Path) -> None:
    with serving("--ckpt", "builtin:random", "--seed", "3", cwd=tmp_path) as (address, _):
        assert run(tmp_path / "there", address, "--num-chains=3", "--workers=2") == 0
    assert run(tmp_path / "here", "builtin:random", "--num-chains=3", "--seed=3") == 0
    assert outcomes(tmp_path / "there") == outcomes(tmp_path / "here")
    header = json.loads((tmp_path / "there/header.json").read_text())
    assert header["policy"]["protocol"] == "calvin_eval"
    assert "random" in header["policy"]["server"]["calvin_eval"]["policy"]
    (said,) = json.loads((tmp_path / "there/profile.json").read_text())["policy"]
    assert said["address"] == address
    asked = 2 * header["reproducibility"]["decisions"]
    assert (asked, header["reproducibility"]["reproducible"]) == (12, True)
    steps = sum(s["steps"] for o in outcomes(tmp_path / "there") for s in o["subtasks"])
    assert said["calls"] == steps + asked
    assert 0 < said["server_infer_ms"]["median"] <= said["round_trip_ms"]["median"]


def test_a_server_that_draws_its_noise_as_requests_come_is_not_reproducible(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0)

    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        return {"actions": noise.uniform(-1, 1, (4, 7)).astype(np.float32)}

    out = tmp_path / "run"
    with OpenpiServer(infer, {"name": "noisy"}) as server:
        assert run(out, server.address, "--num-chains=1", "--workers=1", *UNSEEN) == 0
    header = json.loads((out / "header.json").read_text())
    assert header["reproducibility"]["reproducible"] is False
    assert "not reproducible" in (out / "report.md").read_text()


UNSEEN = ("policy.options.keys.static=null", "policy.options.keys.gripper=null")


def test_a_run_against_an_openpi_server_whole(tmp_path: Path) -> None:
    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.tile(np.float32([0, 0, 0.5, 0, 0, 0, 0.9]), (4, 1))}

    with OpenpiServer(infer, {"name": "trivial"}) as server:
        code = run(
            tmp_path / "run", server.address, "--num-chains=1", "--workers=1", "--render=tiny",
            "policy.options.keys.gripper=null", "policy.observe.images.size=64",
            "policy.actions.execute.steps=2",
        )  # fmt: skip
        assert code == 0
        assert [r["observation/image"].shape for r in server.requests] == [(64, 64, 3)] * 9
    (record,) = read_journal(tmp_path / "run/chains.jsonl")
    assert record.status == "completed"
    assert record.subtasks[0].steps == 5
    header = json.loads((tmp_path / "run/header.json").read_text())
    assert header["policy"]["server"] == {"name": "trivial"}
    assert header["policy"]["stages"]["actions"]["execute"]["steps"] == 2


def test_a_server_that_fails_makes_an_error_and_not_a_failed_subtask(tmp_path: Path) -> None:
    def infer(obs: dict[str, Any]) -> dict[str, Any]:
        if len(server.requests) < 3:
            return {"actions": np.zeros((1, 7))}
        raise RuntimeError("the GPU fell off the bus")

    with OpenpiServer(infer) as server:
        code = run(
            tmp_path / "run", server.address, "--num-chains=1", "--workers=1",
            "policy.options.keys={static: null, gripper: null}",
        )  # fmt: skip
    assert code == 3
    (record,) = read_journal(tmp_path / "run/chains.jsonl")
    assert record.status == "error"
    assert "fell off the bus" in str(record.error)
    assert record.subtasks == ()


@pytest.mark.parametrize("name", ["Memory", "Custom"])
def test_a_served_policy_keeps_the_contract(policies: str, name: str) -> None:
    with served(f"{policies}:{name}", batch=BatchRules(wait=0.001)) as server:
        loaded = resolve(server.address)
        local = resolve(f"{policies}:{name}").policy
        assert loaded.policy.requirements == local.requirements
        assert local.requirements.max_sessions == (1 if name == "Custom" else None)
        check_policy(loaded.policy, tolerance=0)


def test_requests_of_a_batch_reach_the_policy_as_one(policies: str) -> None:
    with served(f"{policies}:Memory") as server:
        policy = resolve(server.address).policy
        requests = [fake_request(policy.requirements, session) for session in range(4)]
        for session in range(4):
            policy.reset(session, "x")
        policy.act(requests)
        assert policy.report()["connections"] > 1  # type: ignore[attr-defined]


def test_a_client_of_openpi_gets_actions_and_a_reset_with_every_new_prompt(policies: str) -> None:
    def message(prompt: str) -> bytes:
        return pack({"robot_obs": np.ones(15), "prompt": prompt})

    with served(f"{policies}:Memory") as server, connect(server.address) as line:
        assert unpack(line.recv())["calvin_eval"]["version"] == dialect.VERSION
        first, second, third = (
            (line.send(message(prompt)), unpack(line.recv()))[1]  # type: ignore[func-returns-value]
            for prompt in ("open it", "open it", "close")
        )
    assert first["actions"].shape == (2, 7)
    assert first["server_timing"]["infer_ms"] >= first["policy_timing"]["infer_ms"] > 0
    assert (first["actions"] != second["actions"]).any()
    assert (third["actions"] != first["actions"]).any()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xc1", "msgpack"),
        ("text", "binary"),
        (pack([1]), "a map"),
        (pack({"prompt": "x"}), "'robot_obs'.*found nothing"),
        (pack({"prompt": 3, "robot_obs": np.ones(15)}), "text under 'prompt'"),
        (pack({"prompt": "x", "robot_obs": [1.0] * 15}), "array of 1 dimensions, found list"),
        (pack({"prompt": "x", "robot_obs": np.ones(15), dialect.SESSION: "3"}), "session"),
        (pack({"prompt": "x", "robot_obs": np.ones(15), dialect.SESSION: 3, dialect.STEP: 0,
               dialect.POSITION: 0, dialect.CLIENT: "a", dialect.SERIAL: 0,
               dialect.RESET: False}), "session 3 is unknown"),
        (b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", "msgpack"),
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_an_error_and_the_end(
    policies: str, message: str | bytes, reason: str
) -> None:
    with served(f"{policies}:Memory") as server:
        with connect(server.address) as line:
            line.recv()
            line.send(message)
            reply = line.recv()
            assert isinstance(reply, str)
            with pytest.raises(ConnectionClosed):
                line.recv()
        assert re.search(reason, reply), reply
        assert resolve(server.address)  # it serves on


def test_a_request_that_is_repeated_is_answered_once(policies: str) -> None:
    fields = {
        dialect.SESSION: 3, dialect.CLIENT: "a", dialect.POSITION: 0, "prompt": "x",
        "robot_obs": np.ones(15),
    }  # fmt: skip
    first = {**fields, dialect.SERIAL: 0, dialect.RESET: True, dialect.STEP: 0}
    second = {**fields, dialect.SERIAL: 1, dialect.RESET: False, dialect.STEP: 2}
    replies = []
    with served(f"{policies}:Memory") as server:
        for message in (first, second, second):
            with connect(server.address) as line:  # each on its own connection, as after a loss
                line.recv()
                line.send(pack(message))
                replies.append(unpack(line.recv())["actions"].tolist())
    assert replies[1] == replies[2] != replies[0]


def test_a_session_belongs_to_one_client(policies: str) -> None:
    with served(f"{policies}:Memory") as server:
        mine, theirs = resolve(server.address).policy, resolve(server.address).policy
        for policy in (mine, theirs):
            policy.reset(0, "x")
            policy.act([fake_request(policy.requirements)])
        with pytest.raises(PolicyError, match="does another run use it"):
            mine.act([fake_request(mine.requirements, step=1)])


def test_the_end_of_a_session_reaches_the_served_policy() -> None:
    ended: list[int] = []

    class Ending:
        requirements = Requirements()

        def reset(self, session: int, instruction: str) -> None: ...

        def act(self, requests: Any) -> Any:
            return [np.zeros((1, 7)) for _ in requests]

        def end(self, session: int) -> None:
            ended.append(session)

    policy = with_defaults(Ending())
    loaded = LoadedPolicy(policy=policy, kind="test", description="", metadata={})
    with serving_policy(loaded, Ending) as server:
        mine, theirs = resolve(server.address).policy, resolve(server.address).policy
        for policy in (mine, theirs):
            policy.reset(4, "x")
            policy.act([fake_request(policy.requirements, 4)])
        mine.end(4)  # which is theirs by now
        assert ended == []
        theirs.end(4)
        theirs.end(4)
        assert ended == [4]
        assert server._sessions._sessions == {}
        theirs.reset(5, "x")
        theirs.end(5)  # never asked for anything
        assert ended == [4]
        with connect(server.address) as line:  # a client of openpi's: its session is its line
            line.recv()
            line.send(pack({"robot_obs": np.ones(15), "prompt": "x"}))
            line.recv()
    assert ended[0] == 4  # the server has ended its own sessions, if not before
    assert ended[1] > 10**6


def test_a_server_that_is_gone_is_no_error_of_a_chain_that_is_over(policies: str) -> None:
    with served(f"{policies}:Memory") as server:
        policy = resolve(server.address).policy
        policy.reset(0, "x")
        policy.act([fake_request(policy.requirements)])
    policy.end(0)


def test_sessions_of_a_client_that_is_gone_for_long_end(policies: str) -> None:
    ended: list[int] = []
    batcher = Batcher(BatchRules())
    memory = resolve(f"{policies}:Memory").policy.policy  # type: ignore[attr-defined]
    memory.end = ended.append
    policy = with_defaults(memory)
    table = SessionTable(batcher, patience=0.0)
    flat = {dialect.SESSION: 3, dialect.CLIENT: "a", dialect.SERIAL: 0, dialect.RESET: True,
            dialect.POSITION: 0, dialect.STEP: 0}  # fmt: skip
    table.find(flat, policy)
    table.connected("a")
    table.connected("a")
    batcher.ask(policy, fake_request(policy.requirements, 3), reset=True, owner="a")
    table.disconnected({"a"})
    assert ended == []  # it has another connection
    table.disconnected({"a"})
    batcher.close()
    assert ended == [3]


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
def test_a_served_policy_that_exits_is_an_error_of_its_client_only(
    tmp_path: Path, error: str
) -> None:
    path = tmp_path / "exits.py"
    path.write_text(f"{POLICY}\nclass Exits(Memory):\n    def one(self, request):\n"
                    f"        raise {error}\n")  # fmt: skip
    with served(f"{path}:Exits") as server:
        for _ in range(2):
            policy = resolve(server.address).policy
            policy.reset(0, "x")
            with pytest.raises(PolicyError, match=error.partition("(")[0]):
                policy.act([fake_request(policy.requirements)])


def test_an_exception_of_the_policy_names_itself_and_shows_no_code(policies: str) -> None:
    with served(f"{policies}:Broken") as server:
        policy = resolve(server.address).policy
        policy.reset(0, "x")
        with pytest.raises(PolicyError, match="ValueError: no idea what to do") as caught:
            policy.act([fake_request(policy.requirements)])
    assert "File" not in str(caught.value)


def test_idle_connections_cost_no_instance_and_closed_ones_give_theirs_back(
    policies: str,
) -> None:
    made: list[Policy] = []

    def make() -> Policy:
        made.append(resolve(f"{policies}:Custom").policy)
        return made[-1]

    message = pack({"robot_obs": np.ones(15), "prompt": "x"})
    with (
        serving_policy(make_loaded(policies), make, max_instances=3) as server,
        contextlib.ExitStack() as stack,
    ):
        lines = [stack.enter_context(connect(server.address)) for _ in range(20)]
        for line in lines:
            line.recv()
        assert made == []
        for line in lines[:3]:
            line.send(message)
            assert "actions" in unpack(line.recv())
        assert len(made) == 2  # and the one that was there
        lines[3].send(message)
        assert "--max-instances" in str(lines[3].recv())
        for line in lines:
            line.close()
        wait_until(lambda: server._instances._count == 1, "instances to be let go")
        with connect(server.address) as line:
            line.recv()
            line.send(message)
            assert "actions" in unpack(line.recv())
        assert len(made) == 2


def make_loaded(policies: str) -> LoadedPolicy:
    return resolve(f"{policies}:Custom")


def test_connections_are_bounded_and_freed(policies: str) -> None:
    with served(f"{policies}:Memory", max_connections=2) as server:
        with connect(server.address) as one, connect(server.address) as two:
            one.recv()
            two.recv()
            with pytest.raises(InvalidStatus, match="503"), connect(server.address):
                pass
        wait_until(lambda: not server._open, "connections to be closed")
        with connect(server.address) as line:
            assert line.recv()


def test_sessions_are_bounded(policies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 5)
    fields = {dialect.CLIENT: "a", dialect.POSITION: 0, "prompt": "x", "robot_obs": np.ones(15),
              dialect.RESET: True, dialect.STEP: 0}  # fmt: skip
    with served(f"{policies}:Memory") as server, connect(server.address) as line:
        line.recv()
        for number in range(6):
            line.send(pack({**fields, dialect.SESSION: number, dialect.SERIAL: number}))
            reply = line.recv()
        assert "at most 5 sessions" in str(reply)
        assert len(server._sessions._sessions) == 5


def test_two_keys_in_one_request_are_a_bad_one(policies: str) -> None:
    headers = [("Authorization", "Api-Key s3cret"), ("Authorization", "Api-Key other")]
    for token in ("s3cret", None):
        with (
            served(f"{policies}:Memory", token=token) as server,
            pytest.raises(InvalidStatus, match="400"),
            connect(server.address, additional_headers=headers),
        ):
            pass


def test_poses_need_a_client_that_knows_their_form(policies: str) -> None:
    with served(f"{policies}:Poses") as server:
        policy = resolve(server.address).policy
        policy.reset(0, "x")
        request = fake_request(policy.requirements)
        ((position, orientation, gripper),) = policy.act([request])[0]
        np.testing.assert_array_equal(position, request.obs["robot_obs"][:3] + 0.01)
        assert (orientation.dtype, gripper) == (np.float32, 1)
        with connect(server.address) as line:
            line.recv()
            line.send(pack({"prompt": "x", "robot_obs": np.ones(15)}))
            assert "absolute poses" in str(line.recv())


def test_the_simulators_state_is_not_sent(policies: str) -> None:
    with pytest.raises(CheckpointError, match="simulator's own state"), served(f"{policies}:Spy"):
        pass
    with pytest.raises(CheckpointError, match="matrices of cam"), served(f"{policies}:Surveyor"):
        pass


def test_health_key_origin_and_size(policies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(f"{policies}:Memory", token="s3cret", max_size=1000) as server:
        url = server.address.replace("ws", "http")
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        monkeypatch.delenv("CALVIN_EVAL_TOKEN", raising=False)
        with pytest.raises(CheckpointError, match="CALVIN_EVAL_TOKEN"):
            resolve(server.address)
        monkeypatch.setenv("CALVIN_EVAL_TOKEN", "wrong")
        with pytest.raises(CheckpointError, match="CALVIN_EVAL_TOKEN"):
            resolve(server.address)
        monkeypatch.setenv("CALVIN_EVAL_TOKEN", "s3cret")
        policy = resolve(server.address).policy
        policy.reset(0, "x")
        assert policy.act([fake_request(policy.requirements)])
        key = {"Authorization": "Api-Key s3cret"}
        with pytest.raises(InvalidStatus):  # a page in a browser
            connect(server.address, additional_headers=key, origin="http://evil.example")  # type: ignore[arg-type]
        with connect(server.address, additional_headers=key) as line:
            line.recv()
            line.send(bytes(2000))
            with pytest.raises(ConnectionClosed) as caught:
                line.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009


def test_a_network_needs_a_key(capsys: pytest.CaptureFixture[str], policies: str,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.delenv("CALVIN_EVAL_TOKEN", raising=False)
    assert main(["serve", "--ckpt", "builtin:still", "--host", "0.0.0.0"]) == 2
    assert "CALVIN_EVAL_TOKEN" in capsys.readouterr().err
    assert [is_loopback(h) for h in ("localhost", "127.0.0.2", "::1", "10.0.0.1", "host")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], policies: str) -> None:
    with served(f"{policies}:Memory") as server:
        port = server.address.rpartition(":")[2]
        assert main(["serve", "--ckpt", "builtin:still", "--port", port]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_ctrl_c_ends_it_with_clients_connected(tmp_path: Path) -> None:
    with serving("--ckpt", "builtin:still", cwd=tmp_path) as (address, process):
        with connect(address) as line:
            line.recv()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=LIMIT) == 0  # while this client stays
            with pytest.raises(ConnectionClosed):
                line.recv()
        assert "Traceback" not in process.stderr.read()
