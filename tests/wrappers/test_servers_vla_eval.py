"""vla-eval's protocol, against its own model server and against servers that misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child_processes import wait_for_health
from ports import reserved_port
from requirements import need_package
from waiting import LIMIT
from wire_servers import WireServer, cut, envelope, messages, plain_action

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.wrappers.loaders import LoadedPolicy, resolve
from calvin_eval.wrappers.testing import fake_request

pytestmark = pytest.mark.processes

# Patient with a busy machine; a test in which nobody answers says how long it waits for that.
PATIENT: dict[str, Any] = {
    "protocol": "vla_eval",
    "timeout": LIMIT,
    "first_timeout": LIMIT,
    "connect_timeout": LIMIT,
    "retries": 2,
    "backoff": 0.02,
    "actions": "calvin",
}

# A policy of vla-eval's own kind. An action says where it is from: how often the model was asked
# in this episode, which row of the chunk it is, what the observation was.
MODEL = """
import json, os, sys, time
import numpy as np
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve

class Chunks(PredictModelServer):
    def __init__(self, log, **options):
        super().__init__(**options)
        self.log, self.asked, self.together = log, {}, 0

    def note(self, *what):
        with open(self.log, "a") as file:
            file.write(json.dumps(what) + "\\n")

    async def on_episode_start(self, config, ctx):
        await super().on_episode_start(config, ctx)
        self.note("start", config)

    async def on_episode_end(self, result, ctx):
        await super().on_episode_end(result, ctx)
        self.note("end", result)

    async def on_observation(self, obs, ctx):
        self.together += "four together" in obs["task_description"]
        await super().on_observation(obs, ctx)

    def predict_batch(self, observations, contexts):
        self.note("batch", len(observations))
        while 0 < self.together < 4:  # what has not come yet will be in the next batch
            time.sleep(0.01)
        return [self.one(o, c) for o, c in zip(observations, contexts)]

    def one(self, obs, ctx):
        images = {k: [v.shape, str(v.dtype), int(v.sum())] for k, v in obs["images"].items()}
        self.note("obs", images, obs["task_description"], obs["states"].tolist(),
                  str(obs["states"].dtype), obs["state"].tolist(),
                  obs.get("episode_restart", False), ctx.step)
        if "fail" in obs["task_description"]:
            raise ValueError("cannot do that")
        while "slow" in obs["task_description"] and not os.path.exists(self.log + ".go"):
            time.sleep(0.01)
        self.asked[ctx.episode_id] = self.asked.get(ctx.episode_id, 0) + 1
        chunk = np.zeros((4, 7), np.float32)
        chunk[:, 0] = self.asked[ctx.episode_id]
        chunk[:, 1] = np.arange(4)
        chunk[:, 2] = obs["states"][0]
        chunk[:, 6] = 0.3
        return {"actions": chunk}

    def get_observation_params(self):
        return json.loads(sys.argv[4])

batch = int(sys.argv[3])
serve(Chunks(sys.argv[2], chunk_size=4, max_batch_size=batch, max_wait_time=0.05),
      "127.0.0.1", int(sys.argv[1]))
"""


class ModelServer:
    """vla-eval's model server in a process of its own."""

    def __init__(self, folder: Path, port: int, batch: int = 8, wishes: Any = None) -> None:
        script = folder / "model.py"
        script.write_text(MODEL)
        self.log = folder / "log.jsonl"
        self.log.touch()
        self.port = port
        self.address = f"ws://127.0.0.1:{port}"
        self._arguments = [
            sys.executable, str(script), str(port), str(self.log), str(batch),
            json.dumps(wishes or {}),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            wait_for_health(self.process, self.port)
        except BaseException:
            self.process.kill()
            raise

    def go(self) -> None:
        """Let slow inferences end."""
        Path(f"{self.log}.go").touch()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def events(self, kind: str) -> list[list[Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == kind]


@pytest.fixture
def server(shared_server: ModelServer) -> ModelServer:
    shared_server.log.write_text("")
    return shared_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    need_package("vla_eval", "vla-eval")
    with reserved_port() as port:
        found = ModelServer(tmp_path_factory.mktemp("model"), port)
        yield found
        found.kill()


def connect(address: str, **options: Any) -> LoadedPolicy:
    return resolve(address, options={**PATIENT, **options})


def begin(loaded: LoadedPolicy, *sessions: int, instruction: str = "open the drawer") -> None:
    for session in sessions:
        loaded.policy.reset(session, instruction)


def ask(
    loaded: LoadedPolicy, *sessions: int, position: int = 0, step: int = 0, text: str | None = None
) -> list[Any]:
    requests = [
        fake_request(loaded.policy.requirements, session, position, step)
        for session in sessions or (0,)
    ]
    if text is not None:
        requests = [replace(request, instruction=text) for request in requests]
    return list(loaded.policy.act(requests))


def report(loaded: LoadedPolicy) -> dict[str, Any]:
    found: dict[str, Any] = dict(loaded.policy.report() or {})
    return found


def test_the_real_server_is_recognised_and_introduced(server: ModelServer) -> None:
    loaded = connect(server.address, protocol="auto")
    assert loaded.metadata["protocol"] == "vla_eval"
    assert loaded.metadata["server"]["model_server"] == "Chunks"
    assert "Chunks" in loaded.description
    json.dumps(loaded.metadata, allow_nan=False)


def test_what_the_real_server_is_sent(server: ModelServer) -> None:
    loaded = connect(server.address, cameras=["static", "gripper"])
    begin(loaded, 7)
    ask(loaded, 7)
    request = fake_request(loaded.policy.requirements, 7)
    ((images, text, states, dtype, state, restart, step),) = server.events("obs")
    pixels = request.obs["rgb_obs"]["rgb_static"]
    assert images["rgb_static"] == [[200, 200, 3], "uint8", int(pixels.sum())]
    assert images["rgb_gripper"][:2] == [[200, 200, 3], "uint8"]  # as vla-eval resizes it
    assert (text, dtype, restart, step) == (request.instruction, "float32", False, 0)
    robot_obs = request.obs["robot_obs"].astype(np.float32)
    assert states == state == [*robot_obs[:7].tolist(), float(robot_obs[14])]
    ((start,),) = server.events("start")
    assert start["task"]["name"] == "seq_0007"
    assert start["task"]["seq_idx"] == 7


def test_chunks_come_one_action_at_a_time_and_end_with_the_subtask(server: ModelServer) -> None:
    loaded = connect(server.address)
    begin(loaded, 0)
    rows = [ask(loaded, step=step)[0] for step in range(6)]
    assert [(r[0, 0], r[0, 1]) for r in rows] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]
    assert all(row.shape == (1, 7) and row[0, 6] == 1 for row in rows)
    begin(loaded, 0)  # a new subtask: the rest of the second chunk must not be executed in it
    assert ask(loaded, position=1)[0][0, :2].tolist() == [1, 0]
    assert [event[5] for event in server.events("obs")] == [False, False, True]
    assert len(server.events("start")) == 2
    assert server.events("end")[0][0]["steps"] == 6
    assert report(loaded)["connections"] == 1


def test_episodes_per_chain_are_what_vla_eval_does_itself(server: ModelServer) -> None:
    loaded = connect(server.address, reset="chain")
    begin(loaded, 0)
    ask(loaded)
    begin(loaded, 0)
    stale = ask(loaded, position=1)[0][0]
    assert stale[:2].tolist() == [1, 1]  # planned for the subtask before
    assert len(server.events("start")) == 1


def test_sessions_do_not_disturb_each_other_and_are_batched(server: ModelServer) -> None:
    loaded = connect(server.address)
    sessions = (0, 1, 2, 3)
    begin(loaded, *sessions)
    text = "four together"
    together = [ask(loaded, *sessions, step=step, text=text) for step in range(3)]
    for place, session in enumerate(sessions):
        state = fake_request(loaded.policy.requirements, session).obs["robot_obs"][0]
        rows = [step[place][0] for step in together]
        assert [row[1] for row in rows] == [0, 1, 2]
        assert {float(row[2]) for row in rows} == {float(np.float32(state))}
    batches = [batch for (batch,) in server.events("batch")]
    assert sum(batches) == 4
    assert max(batches) > 1
    assert report(loaded)["connections"] == 4


def test_an_ended_session_tells_the_server_and_hands_its_connection_on(server: ModelServer) -> None:
    loaded = connect(server.address, connections=2)
    for session in range(5):
        begin(loaded, session)
        ask(loaded, session)
        loaded.policy.end(session)
        loaded.policy.end(session)  # which is over
    assert report(loaded)["connections"] == 1
    begin(loaded, 5)
    ask(loaded, 5)
    assert [end["steps"] for (end,) in server.events("end")] == [1] * 5
    with pytest.raises(PolicyError, match="expected a reset first"):
        ask(loaded, 0, step=1)


def test_more_sessions_than_connections_are_an_error_of_the_last(server: ModelServer) -> None:
    loaded = connect(server.address, connections=2)
    begin(loaded, 0, 1)
    with pytest.raises(PolicyError, match="no more than 2 sessions"):
        begin(loaded, 2)
    assert len(ask(loaded, 0, 1)) == 2


def test_an_error_of_the_model_is_an_error_and_the_connection_lives_on(server: ModelServer) -> None:
    loaded = connect(server.address)
    begin(loaded, 0)
    with pytest.raises(PolicyError, match="cannot do that"):
        ask(loaded, text="fail at this")
    begin(loaded, 0)
    assert ask(loaded)[0].shape == (1, 7)
    assert (report(loaded)["errors"], report(loaded)["reconnects"]) == (1, 0)


def test_a_slow_model_is_an_error(server: ModelServer) -> None:
    loaded = connect(server.address, timeout=0.2)
    begin(loaded, 0)
    ask(loaded)  # the first answer may take longer
    begin(loaded, 0)
    try:
        with pytest.raises(PolicyError, match=r"no answer within 0\.[12]"):
            ask(loaded, position=1, text="slow down")
    finally:
        server.go()
    assert report(loaded)["timeouts"] == 1


@pytest.mark.slow
def test_a_server_that_was_started_anew(tmp_path: Path) -> None:
    need_package("vla_eval", "vla-eval")
    with reserved_port() as port:
        server = ModelServer(tmp_path, port)
        try:
            lose_and_find(server)
        finally:
            server.kill()


def lose_and_find(server: ModelServer) -> None:
    loaded = connect(server.address)
    begin(loaded, 0, 1)
    ask(loaded, 0, 1)
    server.kill()
    server.start()
    # In the middle of a subtask its memory is gone, and nothing can bring it back.
    with pytest.raises(PolicyError, match="memory of this subtask is lost"):
        ask(loaded, 0, step=1)
    with pytest.raises(PolicyError, match="memory of this subtask is lost"):
        ask(loaded, 0, step=2)
    # At the start of one there is nothing to lose.
    begin(loaded, 0, 1)
    assert [a[0, :2].tolist() for a in ask(loaded, 0, 1, position=1)] == [[1, 0], [1, 0]]
    assert report(loaded)["reconnects"] == 2


@pytest.mark.parametrize(
    ("wish", "remedy"),
    [
        ({"ep_len": 720}, "protocol.steps"),
        ({"seed": 0}, "must not change"),
        ({"send_wrist_image": True}, r"cameras=\[static,gripper\]"),
        ({"absolute_action": True}, "actions=absolute"),
    ],
)
def test_a_server_must_not_change_the_protocol(wish: dict[str, Any], remedy: str) -> None:
    with WireServer(introduces({"observation_params": wish})) as server:
        with pytest.raises(CheckpointError, match=remedy):
            connect(server.address)
        loaded = connect(server.address, ignore=list(wish))
        assert loaded.metadata["server"]["observation_params"] == wish
        assert loaded.metadata["options"]["ignore"] == list(wish)


def test_wishes_that_the_user_shares_are_granted() -> None:
    wishes = {"send_wrist_image": True, "send_state": True, "absolute_action": True}
    granted = {"cameras": ["static", "gripper"], "actions": "absolute"}
    with WireServer(introduces({"observation_params": wishes})) as server:
        loaded = connect(server.address, **granted)
        assert loaded.policy.requirements.rgb == ("static", "gripper")
    with (
        WireServer(introduces({"observation_params": {"send_state": True}})) as server,
        pytest.raises(CheckpointError, match="state=true"),
    ):
        connect(server.address, state=False)


def introduces(hello: dict[str, Any]) -> Callable[[Any], None]:
    def converse(connection: Any) -> None:
        connection.recv()
        connection.send(envelope("hello", {"protocol_version": 1, **hello}, 1))
        connection.recv()

    return converse


POSE = fake_request(resolve("builtin:still").policy.requirements).obs["robot_obs"]


@pytest.mark.parametrize(
    ("form", "sent", "expected"),
    [
        ("calvin", (0.1, 0, -1, 0, 0.5, 0, 0.2), (0.1, 0, -1, 0, 0.5, 0, 1)),
        (
            "delta",  # metres and radians onto the measured pose; above zero opens
            (0.01, 0, 0, 0, 0, 0.1, 0.2),
            ((POSE[0] + 0.01, *POSE[1:3]), (*POSE[3:5], POSE[5] + 0.1), 1),
        ),
        (
            "absolute",  # axis-angle; above zero closes
            (0.1, -0.2, 0.5, 0, 0, 1.5, 0.2),
            ((0.1, -0.2, 0.5), (0, 0, 1.5), -1),
        ),
    ],
)
def test_what_a_server_means_by_its_actions(form: str, sent: Any, expected: Any) -> None:
    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "observation":
                connection.send(envelope("action", plain_action(*sent), message["seq"]))

    with WireServer(converse) as server:
        loaded = connect(server.address, actions=form)
        begin(loaded, 0)
        (action,) = ask(loaded)[0]
    flat = np.hstack(list(action)) if isinstance(action, tuple) else action
    np.testing.assert_allclose(flat, np.hstack(expected), atol=1e-6)
    assert isinstance(action, tuple) == (form != "calvin")


def test_a_window_of_executed_actions_is_sent() -> None:
    sent: list[Any] = []

    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "observation":
                sent.append(message["payload"].get("actions"))
                connection.send(envelope("action", plain_action(*[0.5] * 7), message["seq"]))

    window = {"history": {"length": 3, "keys": ["actions"]}}
    with WireServer(converse) as server:
        for observe in ({}, window):
            loaded = resolve(server.address, options=PATIENT, observe=observe)
            begin(loaded, 0)
            ask(loaded)
    assert sent[0] is None
    assert sent[1]["shape"] == [1, 7]


@pytest.mark.parametrize("form", ["delta", "absolute"])
def test_actions_become_the_poses_that_vla_evals_benchmark_makes_of_them(form: str) -> None:
    benchmark = need_package("vla_eval.benchmarks.calvin.benchmark", "vla-eval")
    draw = np.random.default_rng(0)
    sent = draw.uniform(-1, 1, (12, 7)).astype(np.float32)
    sent[:, 3:6] *= 3 if form == "absolute" else 1
    queue = iter(sent)

    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "observation":
                action = plain_action(*next(queue))
                connection.send(envelope("action", action, message["seq"]))

    theirs = benchmark.CALVINBenchmark(absolute_action=form == "absolute")
    with WireServer(converse) as server:
        loaded = connect(server.address, actions=form)
        for position in range(2):
            begin(loaded, 0)
            measured = fake_request(loaded.policy.requirements, 0, position).obs["robot_obs"]
            theirs._last_act = np.concatenate([measured[0:6], measured[14:15]])
            for step in range(6):
                (pose,) = ask(loaded, position=position, step=step)[0]
                convert = getattr(theirs, f"_process_{form}_action")
                expected = convert({"actions": sent[6 * position + step]})
                np.testing.assert_allclose(np.hstack(list(pose)), expected, atol=2e-6)


def answers(*replies: Callable[[int], bytes | str]) -> Callable[[Any], None]:
    """Answer the first observation with the given frames, made from its number."""

    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "observation":
                for reply in replies:
                    connection.send(reply(message["seq"]))

    return converse


GOOD = plain_action(1, 0, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda seq: b"\xc1", "msgpack"),
        (lambda seq: b"\x80", "type and payload and seq"),
        (lambda seq: envelope("action", [1], seq), "payload"),
        (lambda seq: envelope("action", GOOD, "one"), "seq"),
        (lambda seq: envelope("hello", {}, seq), "expected 'action'.*found 'hello'"),
        (lambda seq: envelope("action", GOOD, seq + 1), "number"),
        (lambda seq: envelope("error", {"error": "observation_failed: no"}, seq), "failed: no"),
        (lambda seq: envelope("action", {}, seq), r"\(none\)"),
        (lambda seq: envelope("action", plain_action(*[np.nan] * 7), seq), "finite"),
        (lambda seq: envelope("action", {"actions": "up"}, seq), "numbers"),
        (lambda seq: "Traceback: oh no", "oh no"),
    ],
)
def test_what_is_no_answer_is_an_error(reply: Callable[[int], Any], message: str) -> None:
    with WireServer(answers(reply)) as server:
        loaded = connect(server.address)
        begin(loaded, 0)
        with pytest.raises(PolicyError, match=message):
            ask(loaded)


def test_a_stale_answer_is_not_taken_for_the_present_one() -> None:
    stale = answers(
        lambda seq: envelope("action", plain_action(9, 9, 9, 9, 9, 9, 9), seq - 2),
        lambda seq: envelope("action", GOOD, seq),
    )
    with WireServer(stale) as server:
        loaded = connect(server.address)
        begin(loaded, 0)
        assert ask(loaded)[0][0, 0] == 1
        assert ask(loaded, step=1)[0][0, 0] == 1


def test_an_episode_that_could_not_start_is_an_error_at_its_first_observation() -> None:
    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "episode_start":
                failed = {"error": "episode_start_failed: ValueError: no such task"}
                connection.send(envelope("error", failed, message["seq"]))
            elif message["type"] == "observation":
                connection.send(envelope("action", GOOD, message["seq"]))

    with WireServer(converse) as server:
        loaded = connect(server.address)
        begin(loaded, 0)
        with pytest.raises(PolicyError, match="no such task"):
            ask(loaded)


def test_a_connection_that_breaks_at_a_subtasks_start_is_renewed() -> None:
    starts: list[int] = []

    def converse(connection: Any) -> None:
        for message in messages(connection):
            if message["type"] == "episode_start":
                starts.append(message["seq"])
            elif len(starts) == 1:
                cut(connection)
            else:
                connection.send(envelope("action", GOOD, message["seq"]))

    with WireServer(converse) as server:
        loaded = connect(server.address)
        begin(loaded, 0)
        assert ask(loaded)[0].shape == (1, 7)
    assert starts == [2, 2]  # announced again, after another hello
    assert report(loaded)["reconnects"] == 1


def test_a_server_that_answers_a_hello_with_something_else() -> None:
    def converse(connection: Any) -> None:
        connection.recv()
        connection.send(envelope("action", GOOD, 1))

    with WireServer(converse) as server, pytest.raises(CheckpointError, match="expected 'hello'"):
        connect(server.address)


@pytest.mark.parametrize("option", ["actions", "reset", "cameras"])
def test_options_that_cannot_be_meant(option: str) -> None:
    value = ["top"] if option == "cameras" else "sideways"
    with WireServer(introduces({})) as server, pytest.raises(UnknownNameError, match=option):
        connect(server.address, **{option: value})
