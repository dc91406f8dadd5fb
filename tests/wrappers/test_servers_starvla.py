"""starVLA's protocol: what is sent, what is accepted, and whose words an error has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from waiting import LIMIT
from wire_servers import OpenpiServer

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import PolicyError, UsageError
from calvin_eval.wrappers.loaders import LoadedPolicy, declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.processes

METADATA = {"env": "x", "action_chunk_size": 8, "available_unnorm_keys": ["franka"]}
PATIENT = {"timeout": LIMIT, "first_timeout": LIMIT, "connect_timeout": LIMIT, "retries": 1}
CHUNK = np.linspace(-1, 1, 56, dtype=np.float32).reshape(1, 8, 7)


def answer(message: dict[str, Any], **reply: Any) -> dict[str, Any]:
    """As its server answers."""
    return {
        "status": "ok", "ok": True, "type": "inference_result",
        "request_id": message["request_id"], **reply,
    }  # fmt: skip


def actions(message: dict[str, Any]) -> dict[str, Any]:
    return answer(message, data={"actions": CHUNK})


def server_of(infer: Callable[[dict[str, Any]], Any] = actions) -> OpenpiServer:
    return OpenpiServer(infer, METADATA)


def connect(server: OpenpiServer, **options: Any) -> LoadedPolicy:
    return resolve(server.address, options={**PATIENT, **options})


def ask(loaded: LoadedPolicy) -> Any:
    request = fake_request(loaded.policy.requirements)
    return loaded.policy.act([request])[0]


def test_it_is_recognised_and_sent_examples() -> None:
    with server_of() as server:
        loaded = connect(server, arguments={"unnorm_key": "franka"})
        request = fake_request(loaded.policy.requirements)
        (found,) = loaded.policy.act([request])
        check_policy(loaded.policy)
    assert loaded.metadata["protocol"] == "starvla"
    assert "starVLA protocol" in loaded.description
    sent = server.requests[0]
    assert sent["type"] == "infer"
    (example,) = sent["payload"].pop("examples")
    assert sent["payload"] == {
        "do_sample": False, "use_ddim": True, "num_ddim_steps": 10, "unnorm_key": "franka",
    }  # fmt: skip
    assert set(example) == {"image", "lang"}
    assert [image.shape for image in example["image"]] == [(224, 224, 3)] * 2
    assert example["lang"] == request.instruction
    rows = np.array(found)
    np.testing.assert_allclose(rows[:, :6], CHUNK[0][:, :6])
    assert set(rows[:, 6]) == {-1.0, 1.0}


def test_one_camera_and_a_state() -> None:
    with server_of() as server:
        loaded = resolve(
            server.address,
            options={**PATIENT, "cameras": ["static"]},
            observe={"proprioception": {"fields": "seven"}},
        )
        ask(loaded)
    (example,) = server.requests[0]["payload"]["examples"]
    assert len(example["image"]) == 1
    assert example["state"].shape == (1, 7)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"status": "error", "ok": False, "error": {"message": "CUDA out of memory"}},
         "the server failed: CUDA out of memory"),
        ({"status": "error", "ok": False, "error": "odd"}, "the server failed: odd"),
        ({"data": {"normalized_actions": CHUNK}}, "normalized_actions: serve with a version"),
        ({"data": [1]}, "expected a map"),
        ({"data": {"actions": np.zeros((2, 8, 7))}}, "shape"),
        ({"data": {"actions": np.full((1, 8, 7), np.nan)}}, "finite"),
    ],
)  # fmt: skip
def test_errors_have_the_servers_words(reply: dict[str, Any], message: str) -> None:
    with server_of(lambda asked: answer(asked, **reply)) as server:
        loaded = connect(server)
        with pytest.raises(PolicyError, match=message):
            ask(loaded)


def test_the_answer_to_another_request_is_none_to_this() -> None:
    first: list[dict[str, Any]] = []

    def stale(message: dict[str, Any]) -> dict[str, Any]:
        first.append(message)
        return actions(first[0])

    with server_of(stale) as server:
        loaded = connect(server)
        ask(loaded)
        with pytest.raises(PolicyError, match="answer to request 1, found that to '0'"):
            ask(loaded)


@pytest.mark.parametrize("given", [{"examples": []}, [1], "x"])
def test_arguments_that_cannot_be_meant(given: object) -> None:
    with server_of() as server, pytest.raises(UsageError, match="arguments of starVLA's model"):
        connect(server, arguments=given)


def test_the_preset_declares_what_the_protocol_does() -> None:
    found = declared(Source(ckpt="ws://a:1", options={"protocol": "starvla"}))
    policy = compose_config(["policy=starvla"], {"ckpt": "ws://a:1"}).policy
    assert found == (policy.observe, policy.actions)
