"""X-VLA's protocol over HTTP: what is posted, what is accepted, what comes of faults."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from ports import reserved_port
from scipy.spatial.transform import Rotation
from waiting import LIMIT

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import LoadedPolicy, declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.processes

PATIENT: dict[str, Any] = {
    "timeout": LIMIT, "first_timeout": LIMIT, "connect_timeout": LIMIT, "retries": 0,
    "backoff": 0.01,
}  # fmt: skip
RNG = np.random.default_rng(0)
PLAN = RNG.uniform(0.1, 1, (30, 20))
Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class ActServer:
    """A server whose every answer a test decides."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                outer.paths.append(self.path)
                status, content = answer(outer.requests[-1])
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def plan(message: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps({"action": PLAN.tolist()}).encode()


@contextmanager
def serving(answer: Answer = plan) -> Iterator[ActServer]:
    server = ActServer(answer)
    try:
        yield server
    finally:
        server.stop()


def connect(server: ActServer, **options: Any) -> LoadedPolicy:
    return resolve(server.address, options={**PATIENT, **options})


def ask(loaded: LoadedPolicy, session: int = 0) -> Any:
    return loaded.policy.act([fake_request(loaded.policy.requirements, session)])[0]


def image(text: str) -> np.ndarray:
    """As json_numpy reads it."""
    found = json.loads(text)
    data = base64.b64decode(found["__numpy__"])
    return np.frombuffer(data, np.dtype(found["dtype"])).reshape(found["shape"])


def test_what_is_posted_and_what_comes_of_it() -> None:
    with serving() as server:
        loaded = connect(server)
        request = fake_request(loaded.policy.requirements)
        (found,) = loaded.policy.act([request])
        check_policy(loaded.policy)
    assert "X-VLA protocol" in loaded.description
    sent = server.requests[0]
    assert server.paths[0] == "/act"
    assert (sent["domain_id"], sent["steps"]) == (2, 10)
    assert sent["language_instruction"] == request.instruction
    np.testing.assert_array_equal(image(sent["image0"]), request.obs["rgb_obs"]["rgb_static"])
    np.testing.assert_array_equal(image(sent["image1"]), request.obs["rgb_obs"]["rgb_gripper"])
    robot = request.obs["robot_obs"]
    turned = Rotation.from_euler("xyz", robot[3:6]).as_matrix()
    expected = [*robot[:3], *turned[:, :2].reshape(-1), float(robot[14] > 0), *[0] * 10]
    np.testing.assert_allclose(json.loads(sent["proprio"]), expected)
    assert len(found) == 20
    positions = [np.asarray(action["action"][0] if isinstance(action, dict) else action[0])
                 for action in found]  # fmt: skip
    np.testing.assert_allclose(positions, PLAN[:20, :3])


def test_the_model_is_told_its_own_last_pose_until_it_is_reset() -> None:
    with serving() as server:
        loaded = connect(server, rows=7, domain_id=3)
        for _ in range(2):
            ask(loaded)
        loaded.policy.reset(0, "another chain")
        ask(loaded)
    first, second, third = (json.loads(sent["proprio"]) for sent in server.requests)
    np.testing.assert_allclose(second, [*PLAN[6, :10], *[0] * 10])
    assert third == first
    assert server.requests[0]["domain_id"] == 3


def test_the_preset_declares_what_the_protocol_does() -> None:
    found = declared(Source(ckpt="http://a:1", options={}))
    policy = compose_config(["policy=xvla"], {"ckpt": "http://a:1"}).policy
    assert found == (policy.observe, policy.actions)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"error": "Request failed"}', "HTTP status 400.: Request failed"),
        (500, b"Internal Server Error", "HTTP status 500 and 'Internal Server Error'"),
        (422, b'{"detail": [{"msg": "field required"}]}', "field required"),
        (200, b'"error"', "the server failed: error"),
        (200, b'{"error": "no images"}', "the server failed: no images"),
        (200, b"{}", "found the keys .none."),
        (200, b"[1, 2]", "expected a map"),
        (200, b'{"action": [[1, 2, 3]]}', "rows of 10 numbers or more, found 3"),
        (200, b'{"action": [[NaN, 1, 1, 1, 1, 1, 1, 1, 1, 1]]}', "finite"),
        (200, b'{"action": "x"}', "expected numbers"),
        (200, b"[" * 500, "expected JSON"),
    ],
)
def test_faults_have_the_servers_words(status: int, body: bytes, message: str) -> None:
    with serving(lambda sent: (status, body)) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match=message):
            ask(loaded)
        assert len(server.requests) == 1  # nothing is asked twice


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    answers = iter([(503, b"loading"), (503, b"loading")])
    with serving(lambda sent: next(answers, plan(sent))) as server:
        ask(connect(server, retries=2))
        assert len(server.requests) == 3


def test_too_slow_too_large_and_nobody_there() -> None:
    held = threading.Event()

    def slow(message: dict[str, Any]) -> tuple[int, bytes]:
        held.wait(LIMIT)
        return plan(message)

    with serving(slow) as server:
        loaded = connect(server, first_timeout=0.2)
        with pytest.raises(PolicyError, match=r"no answer within 0\.2 s; policy.options.timeout"):
            ask(loaded)
        held.set()
    with serving() as server:
        loaded = connect(server, max_size=100)
        with pytest.raises(PolicyError, match="more than 100 bytes"):
            ask(loaded)
    with reserved_port() as port:
        loaded = resolve(f"http://127.0.0.1:{port}", options=PATIENT)
        with pytest.raises(PolicyError, match="nobody answers there"):
            ask(loaded)


@pytest.mark.parametrize(
    ("address", "options", "kind", "message"),
    [
        ("http://:8000", {}, CheckpointError, "expected ws://"),
        ("http://me:secret@a:1", {}, CheckpointError, "without user and password"),
        ("http://a:1", {"rows": 0}, UsageError, "policy.options.rows"),
        ("http://a:1", {"protocol": "openvla"}, UnknownNameError, "expected one of xvla"),
        ("http://a:1", {"unnorm_key": "x"}, UnknownNameError, "unnorm_key"),
    ],
)
def test_what_cannot_be_meant(
    address: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        resolve(address, options=options)
