"""Messages of a confined policy's process: ours arrive whole, nothing else does anything."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.extras import MissingExtraError
from calvin_eval.rollouts import plain_messages
from calvin_eval.rollouts.batching import Answer
from calvin_eval.rollouts.plain_messages import has_json_form, receive
from calvin_eval.rollouts.policy_errors import UnreadableAnswerError
from calvin_eval.rollouts.service import ServiceReady
from calvin_eval.wrappers.policy import Requirements

Line = tuple["Connection[Any, Any]", "Connection[Any, Any]"]


@pytest.fixture
def line() -> Iterator[Line]:
    here, there = Pipe()
    with here, there:
        yield here, there


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_answer_arrives_bit_for_bit(line: Line, dtype: str) -> None:
    chunk = np.random.default_rng(0).normal(size=(10, 7)).astype(dtype)
    line[1].send(Answer(chunk, 0.5, 3))
    answer = receive(line[0])
    assert answer.chunk.dtype == chunk.dtype
    assert answer.chunk.tobytes() == chunk.tobytes()
    assert (answer.seconds, answer.batch) == (0.5, 3)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "a traceback",
        1.5,
        [{"decisions": 3}],
        Answer([((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0,)), {"type": "joint_rel"}], 0.1, 1),
        ServiceReady(
            address="/tmp/a",
            requirements=Requirements(rgb=("static",), sizes={"static": (64, 64)}),
            description="a policy",
            metadata={"kind": "class"},
        ),
    ],
)
def test_our_messages_arrive(message: Any, line: Line) -> None:
    line[1].send(message)
    assert receive(line[0]) == message


@pytest.mark.parametrize("kind", [CheckpointError, MissingExtraError])
def test_errors_arrive_as_what_they_are(kind: type[CalvinEvalError], line: Line) -> None:
    error = kind.__new__(kind, "no such file")
    error.args = ("no such file",)
    line[1].send(error)
    found = receive(line[0])
    assert type(found) is kind
    assert str(found) == "no such file"


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _by_name(module: str, name: str) -> bytes:
    """A pickle that names something, with a dot in its name or not."""
    return pickle.PROTO + bytes([4]) + b"\x8c" + bytes([len(module)]) + module.encode() + (
        b"\x8c" + bytes([len(name)]) + name.encode() + pickle.STACK_GLOBAL + pickle.STOP
    )  # fmt: skip


def test_code_in_a_message_does_not_run(line: Line, tmp_path: Path) -> None:
    chunk: Any = [_Runs(tmp_path / "made")]
    line[1].send(Answer(chunk, 0.1, 1))
    with pytest.raises(UnreadableAnswerError, match="mkdir"):
        receive(line[0])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("calvin_eval.errors", "get_close_matches"),
        ("calvin_eval.errors", "CalvinEvalError.__subclasses__"),
        ("calvin_eval.extras", "sys"),
        ("calvin_eval.rollouts.batching", "threading"),
        ("calvin_eval.rollouts.batching", "Answer.__init__"),
        ("builtins", "eval"),
        ("numpy", "load"),
    ],
)
def test_only_messages_can_be_named(module: str, name: str, line: Line) -> None:
    line[1].send_bytes(_by_name(module, name))
    with pytest.raises(UnreadableAnswerError, match=name.partition(".")[0]):
        receive(line[0])


@pytest.mark.parametrize("data", [b"", b"\x80", b"no pickle", pickle.dumps([1])[:-2]])
def test_damaged_messages_are_refused(data: bytes, line: Line) -> None:
    line[1].send_bytes(data)
    with pytest.raises(UnreadableAnswerError):
        receive(line[0])


def test_a_message_that_is_too_large_is_refused_before_it_is_read(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_messages, "LARGEST", 100)
    line[1].send_bytes(bytes(101))
    with pytest.raises(UnreadableAnswerError, match="more than 100 bytes"):
        receive(line[0])


def test_what_json_has() -> None:
    assert has_json_form({"a": [1, None, "b"]})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (np.zeros(1), {1: {2}}, deep):
        assert not has_json_form(value)
