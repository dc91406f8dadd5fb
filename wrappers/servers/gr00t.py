"""GR00T's policy server: msgpack over ZeroMQ, with arrays as `.npy` files.

Facts: NVIDIA/Isaac-GR00T, gr00t/policy/server_client.py and gr00t_policy.py at commit 38624df
(version 1.6: maps by modality, a batch in front), gr00t/eval/service.py at commit 0a015f6 (version
1.5: flat maps, no batch).
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError, UsageError
from calvin_eval.extras import require
from calvin_eval.foreign.archives import ArchiveError
from calvin_eval.foreign.arrays import to_array
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers.connection import LostError, ServerError
from calvin_eval.wrappers.servers.keys import Keys, read_keys
from calvin_eval.wrappers.servers.options import (
    LINK_OPTIONS,
    LinkOptions,
    check_address,
    check_protocol,
    read_link,
)
from calvin_eval.wrappers.servers.remote import (
    LONGEST_WORDS,
    RemotePolicy,
    read_actions,
    read_map,
)
from calvin_eval.wrappers.servers.traffic import Traffic
from calvin_eval.wrappers.stages import Settings

PROTOCOL = "gr00t"
VERSIONS = ("1.6", "1.5")
_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
KEYS: Mapping[str, Any] = {
    "static": "video.image",
    "gripper": "video.wrist_image",
    "state": {f"state.{axis}": [index] for index, axis in enumerate(_AXES)},
    "prompt": "annotation.human.action.task_description",
}
ACTIONS = tuple(f"action.{axis}" for axis in _AXES)
"""Names as in GR00T's data configuration for LIBERO, which has CALVIN's cameras and actions."""

STAGES: tuple[Settings, Settings] = (
    {"proprioception": {"fields": "seven"}},
    {"gripper": {"input": "signed"}},
)


def declare(source: Source) -> tuple[Settings, Settings]:
    """The stages of the preset gr00t."""
    _check(source)
    return STAGES


def load(source: Source) -> LoadedPolicy:
    """A policy behind GR00T's server.

    Raises:
        CheckpointError: nobody is there.
        MissingExtraError: pyzmq is not installed.
        UsageError: an option that does not exist or cannot be meant.
    """
    keys, actions, version = _check(source)
    address = check_address(source.ckpt, schemes=("tcp",))
    require("zmq", "a server of GR00T")
    policy = Gr00tPolicy(
        address, read_link(source.options), keys=keys, actions=actions, version=version
    )
    try:
        policy.ping()
    except PolicyError as error:
        raise CheckpointError(str(error)) from error
    seen = ", ".join(f"rgb_{camera}" for camera in keys.cameras) or "no camera"
    return LoadedPolicy(
        policy=policy,
        kind="remote",
        description=f"policy server {address} (GR00T protocol {version}): {seen}",
        metadata=source.metadata(
            "remote", protocol=PROTOCOL, version=version, keys=keys.named(), actions=list(actions)
        ),
        observe=STAGES[0],
        actions=STAGES[1],
    )


def _check(source: Source) -> tuple[Keys, tuple[str, ...], str]:
    options = source.options
    source.check_options(("protocol", "keys", "actions", "version", *LINK_OPTIONS))
    check_protocol(source, PROTOCOL, "a tcp address")
    version = str(options.get("version", VERSIONS[0]))
    if version not in VERSIONS:
        raise UnknownNameError("policy.options.version", version, VERSIONS)
    given = options.get("keys", {})
    keys = read_keys({**KEYS, **given} if isinstance(given, Mapping) else given)
    named = options.get("actions", ACTIONS)
    fine = isinstance(named, Sequence) and not isinstance(named, str) and named
    if not fine or not all(isinstance(name, str) for name in named):
        raise UsageError(
            "expected policy.options.actions to list the keys of an answer whose numbers make the "
            f"action, in order; found {named!r}"
        )
    return keys, tuple(named), version


class Gr00tPolicy(RemotePolicy):
    """A policy behind GR00T's server, which answers one request at a time.

    Args:
        address: `tcp://HOST:PORT`.
        options: patience and limits.
        keys: the names of what is sent, as MODALITY.NAME.
        actions: the names of what comes back, whose numbers are put side by side.
        version: of GR00T's protocol.
    """

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        *,
        keys: Keys,
        actions: tuple[str, ...],
        version: str,
    ) -> None:
        super().__init__(Requirements(rgb=keys.cameras), Traffic(address), 1)
        self.address = address
        self._options, self._keys, self._actions = options, keys, actions
        self._nested = version == "1.6"
        self._socket: Any = None
        self._fresh = True
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Make sure that a server answers, which may still be loading; raises PolicyError."""
        for attempt in range(self._options.retries + 1):
            try:
                self._call({"endpoint": "ping"}, self._options.connect_timeout)
                return
            except LostError:
                if attempt == self._options.retries:
                    raise

    def _forget(self, session: int, instruction: str) -> None:
        """The server remembers nothing of a session."""

    def _close(self, session: int) -> None:
        """Nor has it an end."""

    def _ask(self, request: Request) -> Chunk:
        flat = self._keys.message(request.instruction, request.obs)
        observation = self._observation(flat)
        data = {"observation": observation, "options": None} if self._nested else observation
        patience = self._options.first_timeout if self._fresh else self._options.timeout
        started = time.perf_counter()
        reply = self._call({"endpoint": "get_action", "data": data}, patience)
        self.traffic.add(time.perf_counter() - started, None)
        self._fresh = False
        return self._chunk(reply)

    def _observation(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """What CALVIN shows, with a time axis; in version 1.6 a batch, and a map per modality."""
        found: dict[str, Any] = {}
        for key, value in flat.items():
            modality, _, name = key.partition(".")
            if key == self._keys.prompt:
                modality, name, value = "language", key, [value]
            else:
                array = np.asarray(value)
                value = (array if array.dtype == np.uint8 else array.astype(np.float32))[None]
            if not self._nested:
                found[key] = value
            elif isinstance(value, list):
                found.setdefault(modality, {})[name] = [value]
            else:
                found.setdefault(modality, {})[name] = value[None]
        return found

    def _chunk(self, reply: Any) -> Chunk:
        where = f"{self.address}: reply"
        if self._nested and isinstance(reply, list) and reply:
            reply = reply[0]  # the actions, and a map of facts behind them
        found = read_map(reply, where)
        parts = []
        for name in self._actions:
            plain = name.partition(".")[2] if self._nested else name
            value = found.get(plain, found.get(name))
            if value is None:
                raise PolicyError(
                    f"{where}: expected {plain}, found the keys {', '.join(sorted(found))}: set "
                    "policy.options.actions"
                )
            part = np.asarray(value)
            if self._nested and part.ndim > 1 and len(part) == 1:
                part = part[0]
            parts.append(
                read_actions(part[:, None] if part.ndim == 1 else part, f"{where}: {name}")
            )
        if len({len(part) for part in parts}) > 1:
            raise PolicyError(f"{where}: actions of different lengths")
        return np.concatenate(parts, axis=1)

    def _call(self, content: dict[str, Any], patience: float) -> Any:
        """One request and its answer.

        Raises:
            LostError: no answer in time to a ping; nobody may be there.
            ServerError: an error, or no answer in time.
        """
        import zmq

        token = os.environ.get(self._options.token_env)
        message = pack({**content, **({"api_token": token} if token else {})})
        with self._lock:
            socket = self._opened()
            socket.setsockopt(zmq.RCVTIMEO, int(1000 * patience))
            socket.setsockopt(zmq.SNDTIMEO, int(1000 * patience))
            try:
                socket.send(message)
                answer = socket.recv()
            except zmq.ZMQError as error:
                self._drop()  # a late answer must not be taken for the next one
                if content["endpoint"] == "ping":
                    raise LostError(f"{self.address}: nobody answers there: {error}") from error
                self.traffic.count("timeouts")
                raise self._failure(
                    f"no answer within {patience:g} s ({error}); policy.options.timeout (and "
                    "first_timeout for the first answer) sets how long to wait"
                ) from error
        if answer == b"ERROR":
            raise self._failure("the server failed, and says no more")
        try:
            reply = unpack(answer)
        except PolicyError as error:
            raise self._failure(str(error)) from error
        if isinstance(reply, dict) and "error" in reply:
            raise self._failure(f"the server failed: {str(reply['error'])[:LONGEST_WORDS]}")
        return reply

    def _opened(self) -> Any:
        import zmq

        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, self._options.max_size)
            self._socket.connect(self.address)
            self.traffic.count("connections")
        return self._socket

    def _drop(self) -> None:
        self._socket.close()
        self._socket = None

    def _failure(self, reason: str) -> ServerError:
        self.traffic.count("errors")
        return ServerError(f"{self.address}: {reason}")


def pack(content: Any) -> bytes:
    """A message, with arrays as `.npy` files."""
    packed: bytes = msgpack.packb(content, default=_encode)
    return packed


def unpack(message: bytes) -> Any:
    """The inverse, within bounds; raises PolicyError."""
    try:
        return msgpack.unpackb(message, object_hook=_decode)
    except (ValueError, TypeError, OverflowError, RecursionError, ArchiveError) as error:
        raise PolicyError(f"expected a msgpack message of GR00T's: {error}") from error


def _encode(value: NDArray[Any]) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _decode(found: dict[Any, Any]) -> Any:
    if "__ndarray_class__" not in found:
        return found
    content = found.get("as_npy")
    if not isinstance(content, bytes):
        raise ValueError("an array without its content")
    return to_array(content, "an array")
